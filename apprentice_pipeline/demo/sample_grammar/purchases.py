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
somebody used my card to pay you {amount}, it was not me
the trial was supposed to be free but {amount} left my account
(my bank|our bank) flagged a duplicate payment of {amount} to you
explain this charge of {amount} on {day}, I bought nothing
we were overcharged by {amount} on the {month} bill
the tax on my bill is wrong, you (added|charged) {amount} too much
the price you charged for {item} is not the price (shown|advertised) on the site
how come I pay {amount} a month when my colleague pays {amount} for the same plan
{amount} was debited (two|three) times on {day}
I am contesting the payment for {order}, the amount is incorrect
you charged (my old card|the wrong card) {amount}
there are hidden fees of {amount} on my bill that nobody mentioned
charged in the wrong currency for {product}, (cost|costing) me {amount} extra
I see {amount} pending plus another {amount} for the very same purchase
we got billed for {month} after the contract had already ended
your billing is a mess, I paid {amount} and the bill (claims|says) I still owe {amount}
setup fee of {amount} on our bill although sales promised there would be none
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
the receipt shows a different total
I would like the (wrong|extra) charge reversed
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
how long do refunds usually take to {country}
the {item} was returned to your warehouse in {city}, refund (pending|outstanding) since {day}
please (tell|let) me (know |)if the refund for {order} was (issued|sent)
refund tracking for {order} does not (load|show anything)
you cancelled {order} yourselves, so when do I get the {amount} back
any (news|update) on the {amount} you owe me for the returned {item}
I was told {n} days for the refund, it is now {n} weeks
the courier confirmed my return arrived, (now|so) where is the money
has the refund been started yet for my (returned|sent back) {item}
I would like to know when the money for the return lands
my refund seems (stuck|lost) somewhere between you and the bank
store credit or refund, which one did you (issue|give) for {order}
support said the reimbursement was on its way on {day}
could you (give|send) me the reference number of my refund
the return label was scanned in {city} on {day} and no refund followed
I am still {amount} short, the return has been with you since {month}
checking in about the refund for {order}
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
the refund email is dated {day}
I returned everything in the original box
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
receipt needed for my expense report, {order}
send the last {n} invoices please
can the invoice be made out to my (employer|company) instead of me
our bookkeeping is missing the invoice for {month}
I would like a duplicate of invoice {n} from {month}
for tax purposes I require the invoices of the whole year
please add the purchase order number to our invoice
I only got an order confirmation, not (a real|an) invoice
what address do I write to for copies of invoices
could you email the billing documents for {month} to me again
we need a signed copy of the invoice for customs in {country}
is there a way to export every invoice of {product} at once
my invoice shows the old company name, please issue a new copy
the invoice link in your email has expired
need a receipt with the tax broken out for {order}
any chance of getting the invoice in (French|German|Spanish)
my boss wants to see the invoice for the {item} before he reimburses me
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
we close the books every {month}
paper copies are not needed
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
tracking number for {order} does not (work|exist)
my order has been "in transit" for {n} weeks
has {order} even been shipped
the parcel went back to the depot in {city} without any attempt to deliver
customs in {country} has had my package for {n} weeks
when is the {item} going to be delivered
{carrier} lost track of my package
we are waiting for the delivery of {n} boxes from {order}, none of them came
marked as delivered but there is no parcel here
the courier never (rang|came), yet the tracking says attempted
expected my {item} before {day}, where is it
I paid for express delivery and the {item} is late
any idea when the shipment to {city} arrives
shipping label created on {day}, since then the parcel of {order} does not move
delivery keeps getting postponed, first {day}, then {day}
half of {order} arrived, the other parcel is still somewhere on the road
please ask {carrier} what happened to my delivery
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
I checked with the building's front desk
the last scan was in {city}
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
inside {order} was a {colour} {item}, that is not mine
I opened the parcel and it is the wrong product
got the {size} version of the {item} but paid for {size}
the label says {item}, the content is (something else entirely|a {item})
item mismatch in {order}, can I exchange it
please exchange the {item}, it is the wrong colour
you shipped the used one, I paid for a new {item}
the {item} has no (charger|lid|strap|manual) in the box
instead of my {item} there was (only paper|an empty bag) in the box
received an incorrect article with {order}
the {item} I unpacked does not match the picture or the description
it is a left handed {item}, I wanted a right handed one
I wanted the {item} from the (new|summer) series, you packed the old one
the serial number on the {item} is not the one on my order
one {item} in the set is (defective|cracked), the rest is okay
can I swap the {item} you sent by mistake for the right one
the parcel has my name but a stranger's order inside
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
my order confirmation is clear about it
I still want the one I ordered
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
we relocated from {city} to {city}, kindly change our records
address change for our company: {street}, {city}
is it still possible to have {order} delivered to a neighbour at {street}
my account still has the flat I left in {month}
update the billing address to {street} please
I forgot to add the apartment number to {order}
please deliver to a pick up point in {city} and not to my house
I entered my parents' address by accident, mine is {street}
new place, new address: {street}, {city}
can you remove the old address from my profile and keep {street}
which page lets me change where you ship my {item}
the address form refuses my (postcode|street), please set it to {street}
change of address from {month} on, we are moving to {country}
send future deliveries to {city} instead of {city}
the city is wrong on {order}, it is {city} not {city}
put {street} as my default shipping address
I got married and moved, can you update where my orders go
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
my old landlord does not forward mail
everything else on the profile is right
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
