"""Phrasings about money and parcels: disputes, refunds, invoices, delays, wrong items, addresses.

Phrasings only; see `kind.Kind` for their grammar.
"""

from __future__ import annotations

from apprentice_pipeline.demo.sample_grammar.kind import Kind

BILLING_DISPUTE = Kind(
    "billing_dispute",
    """
I (was|got|have been) charged twice for {order}
my card (shows|has) two (identical|separate) charges of {amount} from you
there is a {amount} charge on my (statement|card|account) that I (do not|don't) recognise
why (did you|have you) charged me {amount} when the price (was|said) {amount}
you (took|withdrew|debited) {amount} without my (permission|consent|approval)
I want to dispute the {amount} you (billed|charged) me in {month}
the amount on my {month} bill is wrong, (it says|I see) {amount} instead of {amount}
I was billed for {n} seats but we only (have|use) {n}
we (keep being|are still being) charged for the {plan} plan although we are on a smaller one
your system double billed (us|me) for {product}
(an|one) unauthorised payment of {amount} went to your company on {day}
the discount (code|voucher) was not applied and I paid the full {amount}
I never (agreed|signed up) to pay {amount} for {product}
""",
    """
my statement shows both lines
I have a screenshot of the (charge|statement)
please correct the (charge|amount|bill)
the charge is labelled {product}
I checked with my bank already
I only authorised a single payment
it happened in {month} as well
my partner did not make this payment either
""",
)

REFUND_STATUS = Kind(
    "refund_status",
    """
where is my refund for {order}
I (sent back|returned) the {item} {n} weeks ago and still have no refund
when (will|does) the refund of {amount} (reach|arrive in) my account
you (promised|confirmed) a refund on {day} but nothing has arrived
what is the status of my refund
can you check (how far|where) the refund for the {item} is
it has been {n} business days and my money is not back
my return was (received|accepted) in {month}, how long until I am refunded
the refund (says|shows) processed but my bank has not (seen|received) it
did my refund go to the old card or (the new one|to my account)
I got an email saying I was refunded {amount}, yet I see nothing
still waiting for my money back after returning {order}
only part of my refund came, {amount} (is|are) missing
""",
    """
the return tracking says delivered
I have the drop-off receipt
the original payment was by (card|bank transfer)
my bank told me to ask you for a reference
the return was approved by your colleague
I sent it with {carrier}
it was unopened
nothing has shown up on my statement
""",
)

INVOICE_COPY = Kind(
    "invoice_copy",
    """
can you send me (a copy of|) the invoice for {month}
I need the invoice for {order} (as a|in) pdf
where (can|do) I download (my|our) (old|past|previous) invoices
our accountant (wants|is asking for) all invoices from {month}
the invoice does not show our VAT number, can you (reissue|resend) it
please (resend|forward) the receipt for {order}
I lost the invoice of the {item}, could I get another one
could you put our company name on the {month} invoice
is it possible to get (an itemised|a detailed) invoice for {order}
we need invoices sent to our (finance|accounting) team every month
I (bought|ordered) the {item} and never got an invoice
how do I get a proper VAT invoice for {product}
the invoice pdf is (blank|empty), may I have a new copy
""",
    """
a pdf is enough
it is for our books
our VAT number is on the profile
the accountant keeps asking me
email is fine
the one from the portal is unreadable
please use the company address
I already looked in the spam folder
""",
)

SHIPPING_DELAY = Kind(
    "shipping_delay",
    """
where is my parcel, {order} should have (arrived|come) on {day}
my {item} (has not|hasn't) arrived yet
the tracking for {order} (has not|hasn't) moved since {day}
{carrier} says the package is still in {city}, what is going on
I ordered the {item} {n} weeks ago and it is still not here
delivery of {order} is {n} days late
how much longer will the shipping of my {item} take
the estimated delivery date (keeps|kept) changing for {order}
my package seems to be (stuck|lost) in {city}
you said two day shipping, it has been {n} days
still no {item} on my doorstep
can you find out why the delivery of {order} is delayed
the delivery was supposed to come on {day} and nobody showed up
""",
    """
I was home the whole day
the tracking page only says processing
my neighbours have not seen it either
it was meant as a gift
{carrier} told me to contact you
I paid extra for fast shipping
the weather has been fine here
other packages arrive just fine
""",
)

WRONG_ITEM = Kind(
    "wrong_item",
    """
you sent me the wrong {item}
I ordered (a|the) {colour} {item} and (got|received) a {colour} one
the box contained a {item} instead of a {item}
{order} arrived with somebody else's things in it
wrong size, I asked for {size} and you sent {size}
this is not the {item} I (ordered|bought)
the {item} in {order} is a different model from the one on your site
I received (two|three) of the {item} although I ordered one
there is a {item} in my parcel that I never ordered
the {item} (came|arrived) (broken|cracked|damaged)
my {item} was (smashed|scratched) when I opened the box
parts are missing from the {item} you sent
you (mixed up|swapped) my order with someone else's
""",
    """
I can send photos
the packing slip lists the right one
I have not used it
the tag is still on
who pays for sending it back
I would rather exchange than return
the box itself looked fine
the barcode says {colour}
""",
)

CHANGE_ADDRESS = Kind(
    "change_address",
    """
I moved, please (update|change) my address to {street}, {city}
can I (change|correct) the delivery address of {order}
we have a new office in {city}, where do I update that
please ship {order} to {street} instead
the shipping address on my account is (outdated|old)
I typed the wrong house number for {order}
how do I edit my (delivery|postal|home) address
my new address is {street} in {city}
could you redirect my parcel to {city}
there is a typo in my street name, it should be {street}
send the {item} to my work address, {street}, rather than home
I will be in {city} next month, can the box go there
the postcode on {order} is wrong
""",
    """
the old flat is empty
the name stays the same
the phone number has not changed
it is not shipped yet according to the site
I could not find the setting
please confirm the new one
the postcode is {n}00{n}
we move in {month}
""",
)

KINDS = (
    BILLING_DISPUTE,
    REFUND_STATUS,
    INVOICE_COPY,
    SHIPPING_DELAY,
    WRONG_ITEM,
    CHANGE_ADDRESS,
)
