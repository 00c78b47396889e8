"""Phrasings about accounts: passwords, locks, plans, cancelling, deleting.

Phrasings only; see `kind.Kind` for their grammar.
"""

from __future__ import annotations

from apprentice_pipeline.demo.sample_grammar.kind import Kind

PASSWORD_RESET = Kind(
    "password_reset",
    """
I forgot my password
how do I reset my password (for|on) {product}
the password reset (email|mail|link) never (arrives|comes)
my reset link (has expired|expired|is not valid anymore)
can you send me a new password (link|reset) please
I cannot remember the password I chose for {product}
reset link says invalid token
I would like to change my password but I do not know the old one
the new password I set is not accepted
your forgot password page does nothing when I (click|press) send
I need a (temporary|new) password for {product}
my password expired while I was on holiday
trying to recover my password, no message in my inbox
""",
    """
I checked the spam folder
my user name is the same as before
I tried it in {browser} too
it is the account with the {plan} plan
the last time I changed it was in {month}
I only remember the first letters
the link opens an empty page
I have access to my email again
""",
)

CANCEL_SUBSCRIPTION = Kind(
    "cancel_subscription",
    """
I want to cancel my subscription
please cancel our {plan} plan (at|by) the end of {month}
how do I (stop|end) my subscription to {product}
(we do|I do) not want to renew {product}
turn off auto renewal for my {plan} plan
where is the cancel button, I cannot find it
I would like to terminate the contract for {product}
cancel my membership please
stop the subscription, we (found|moved to) another tool
do not renew my plan in {month}
we are downsizing and no longer need {product}, please end the subscription
what is the notice period to cancel {product}
I tried to unsubscribe from {product} but the page (loops|hangs)
""",
    """
we liked it but do not need it
the budget was cut
I can find no such button
please send a confirmation
it was a good year
the renewal is in {month}
I do not want another offer
we use it far too rarely
""",
)

UPGRADE_PLAN = Kind(
    "upgrade_plan",
    """
I would like to upgrade to the {plan} plan
what does the {plan} plan cost for {n} users
how do I (move|switch|go) from {plan} to {plan}
can we add {n} (more |)seats to our plan
we are growing and need a bigger plan
what is the difference between {plan} and {plan}
please upgrade our workspace to {plan}
is there a discount if we pay {product} yearly
I want more storage, which plan (do I need|is right)
do you offer an (enterprise|education|non-profit) plan
interested in moving up to {plan}
can I try {plan} for a month before upgrading
if I upgrade in the middle of the month, is it prorated
""",
    """
we are {n} people at the moment
we pay by card
a demo would be nice
our budget is {amount} a month
we like {product} a lot
my manager has approved it
we start with the new team in {month}
a short comparison would help
""",
)

KINDS = (
    PASSWORD_RESET,
    CANCEL_SUBSCRIPTION,
    UPGRADE_PLAN,
)
