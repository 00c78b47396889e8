"""What the bytes of a call turn out to be, after it has passed.

Belongs here: a call's bytes to an exchange, its price, content codings; who reads what a dead
worker left unread. Does not: HTTP, sealing, deciding when.

    calls      a passed call to an exchange
    pricing    what it cost
    encodings  gzip, br, zstd, deflate
    spools     this node's spools into the lake, with a reader for what was left unread

Nothing is re-exported, so that importing one module costs only that module.
"""
