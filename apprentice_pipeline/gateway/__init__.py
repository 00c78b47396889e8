"""The gateway: providers' APIs passed through and captured, and the product's own HTTP routes.

    app        the ASGI application: captures to the hot path, all else to the control plane
    capture    one call through: admit, forward;  relay: tee, commit, release
    upstream   the client of the providers, over connections;  headers: what passes
    local      answers of the local model in the provider's shape
    access     who may do what;  tally, metrics: what is counted
    recording  hands the bytes of a call over;  reading, writer: what they were, in another process
    routes, jobs, exports   the control plane
    server, worker   the processes

Promises: bytes pass unmodified in both directions; whatever of ours fails, the customer's
call goes through, and the failure is counted; the end of a response is released only once its
pair is committed. Provider keys and content are never logged.
"""
