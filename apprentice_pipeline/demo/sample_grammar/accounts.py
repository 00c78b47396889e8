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
password reset goes to an old email (address|account) I no longer have
which characters are allowed in a new password, mine keeps being rejected
the reset page (keeps saying|insists) that my passwords do not match
could an admin reset the password of my colleague {name}
I set a new password on {device} and it still wants the old one
lost my password after getting a new {device}
please help me set a new password
the security question for resetting my password makes no sense
my password manager deleted the entry for {product}, how do I get a new password
reset mail lands in spam and the link in it is dead
wanting to pick a new password but the button is greyed out
what is the way to recover a forgotten password
I requested {n} password resets and got none
the code for resetting my password does not work
after the update {product} asks for a password I do not remember
need to renew my password and the form says it was used before
can my password be reset over the phone
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
the hint does not help me
a text message would work as well
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
end my free trial before it turns into a paid subscription
I am not using {product} anymore, cancel it
pause or cancel my {plan} subscription, I am away until {month}
kindly stop my monthly plan
our company closes, so we must cancel the subscription
can I cancel the subscription in the middle of the term
please confirm that my subscription is cancelled
the subscription is too expensive for me, I am leaving
quit my {product} plan, thanks
I signed up for the {plan} plan by mistake and want to withdraw
not happy with {product}, I would like to cancel
cancelling: {n} licences of {product}
we switched providers, please discontinue our subscription
is there a fee if I cancel {product} before {month}
let my subscription run out and do not extend it
my late father had a subscription to {product}, please end it
take us off the {plan} plan, we are stopping the service
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
my contract number is {n}{n}4{n}
there is a better fit for us
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
we want to buy {n} additional licences
which plan includes single sign on
our team doubled, please quote us the {plan} plan
how many users are included in {plan}
can I get a quote for {n} seats of {product}
upgrade my subscription please
we outgrew the free tier
thinking about the {plan} plan, can sales call me
does the higher plan include phone support
I need the features of {plan}, how do I change plans
switch us to annual billing with the {plan} plan
could my account be raised to {plan} from {month}
what happens to our data when we upgrade to {plan}
are there bigger plans than {plan}
we would like to extend our licence to {n} people in {city}
add the analytics package to our plan
price list for upgrading {product} please
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
we are a school
the pricing page is a bit unclear
""",
)

KINDS = (
    PASSWORD_RESET,
    CANCEL_SUBSCRIPTION,
    UPGRADE_PLAN,
)
