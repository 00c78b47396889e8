"""Phrasings about the product's working: limits, bugs, outages, exports, wishes.

Phrasings only; see `kind.Kind` for their grammar.
"""

from __future__ import annotations

from apprentice_pipeline.demo.sample_grammar.kind import Kind

API_RATE_LIMIT = Kind(
    "api_rate_limit",
    """
we (keep getting|get) 429 errors from {endpoint}
our integration hits the rate limit on {endpoint}
what is the request limit per minute for {endpoint}
can you raise our api quota
too many requests error (since|from) {day} on {endpoint}
the api throttles us at {n}00 requests per minute
we need a higher rate limit for {product}
retry-after header says {n}00 seconds, is that correct
our batch job (exceeds|blows through) the api limit every night
how are api limits counted, per key or per account
rate limiting on {endpoint} is stricter than your docs say
my script gets throttled after {n}00 calls
quota exceeded although we made only {n}00 api calls
is there a burst allowance on the api
429 from {endpoint} with only {n} workers
api key is rate limited and our sync stops
please increase the throughput limit of our api key
the x-ratelimit-remaining header is always zero
requests to {endpoint} are being throttled
we want to send {n}000 api requests a day, which quota do we need
does the api limit reset at midnight
daily api quota used up by noon
the webhook endpoint answers too many requests
can our sandbox key get the same rate limits as production
your sdk does not back off when it is rate limited
we hit the concurrent request cap on {endpoint}
limits for {endpoint} were lowered without notice
how do we ask for a bigger api allowance
bulk calls to {endpoint} are rejected with rate limit exceeded
throttling makes our import of {n}000 records fail
""",
    """
we already back off exponentially
we use the python sdk
one key, {n} workers
the docs mention another number
our peak is in the morning
requests are spread evenly
the header shows zero remaining
the key ends in {n}f{n}
we are on the {plan} plan
caching did not help
""",
)

BUG_REPORT = Kind(
    "bug_report",
    """
the (export|save|search|print) button in {product} does nothing
{product} crashes when I open (the settings|a large file|the calendar)
I found a bug, the totals in the report do not add up
since version {version} the {page} is broken
dates are shown one day off in the {page}
{product} freezes on {device} after a few minutes
dragging a card in {product} duplicates it
the filter on the {page} returns wrong results
error {code} when I save a document
notifications show up twice on {device}
the dark theme makes the text on the {page} unreadable
pasting from a spreadsheet scrambles the columns
scrolling in the {page} jumps back to the top
uploading an image ends with {code}
the app closes by itself on {device}
my changes vanish after pressing save
wrong language appears in the menus of {product}
sorting by date does not sort in the {page}
the chart on the {page} shows negative numbers
undo removes more than the last step in {product}
accented letters turn into question marks in the {page}
in {browser} the {page} overlaps with the menu
the timer in {product} keeps running after I stop it
clicking on a comment opens the wrong document
attachments cannot be opened in version {version}
there is a glitch in the {page}, the same row appears twice
the calculator in {product} rounds {amount} wrongly
{product} on {device} drains the battery and gets hot
the keyboard covers the input field on {device}
reproducible bug: open the {page}, press escape, everything goes white
""",
    """
it happens every time
I can reproduce it in {browser} and on {device}
version {version}
restarting did not change anything
it worked before the update
the console shows {code}
screenshots attached
only one of us sees it
clearing the cache made no difference
steps are in the attachment
""",
)

DATA_EXPORT = Kind(
    "data_export",
    """
how do I export (all |)(my|our) data from {product}
I need a csv of all our {records}
can you give us a full dump of our {records}
where can I download my {records} as a spreadsheet
is there a way to export {records} to json
we want a backup copy of everything in {product}
exporting {records} only gives me the first {n}00 rows
please provide an archive of our workspace
I would like to take my {records} with me to another tool
can the export include attachments
how can I schedule a weekly export of {records}
the exported file of {records} has no headers
data portability request, please send my {records} in a machine readable format
we need to download {n} years of {records}
which format does the export of {records} use
can I pull our {records} out through the api as csv
help me get our {records} out of {product}
a copy of all my {records}, please, in excel
export to pdf or csv, either works, of the {records} since {month}
download my data, where is that
we must hand over our {records} to the auditors as a file
extract of the {records} for {month} required
is it possible to export only {records} tagged {city}
want to move our {records} into our own warehouse, how do I dump them
the zip with our {records} is ready but too large to download
can we get a database dump of {product}
save all {records} to my computer, how
my data request: all {records} you store, as a download
the export of {records} has been preparing for {n} hours
do you support exporting {records} to parquet
""",
    """
csv is preferred
about {n}000 rows
we keep the account
it is for an audit
including the attachments please
dates in iso format if possible
the built-in one is limited
a link to download is enough
from {month} onwards
our analyst needs it
""",
)

FEATURE_REQUEST = Kind(
    "feature_request",
    """
it would be great if {product} had (a dark mode|an offline mode|keyboard shortcuts)
please add (support for|an integration with) {tool}
could you add a way to (group|tag|colour) {records}
feature idea: let us (pin|archive|merge) {records}
I wish I could (sort|filter) the {page} by owner
are you planning to support {tool}
I would love to see a {page} for mobile
suggestion: show a preview of {records} on hover
have you thought about adding voice notes
we would like to customise the {page}
can you build a plugin for {tool}
a calendar view for {records} would help us a lot
my wish for the next version: templates for {records}
it would be nice to share {records} with guests
consider adding multiple languages to {product}
is there a roadmap, we are hoping for a {tool} integration
please make the font size on the {page} adjustable
missing feature: bulk editing of {records}
an option to mute single {records} would be wonderful
would you consider a widget for {device}
idea for improvement: remember my last filter on the {page}
vote from me for nested folders in {product}
I'd like {product} to send a weekly summary
could the {page} get a search box
we miss recurring {records} in {product}
enhancement request: two columns on the {page}
it'd be awesome to have emoji reactions on {records}
allow us to rename {records} in place
when will you add {tool} sync
how about a map view for {records}
""",
    """
many of my colleagues would use it
{tool} has something like it
it would save us hours
just an idea
I would even pay for it
we do it by hand at present
keep up the good work
I could test a beta
the rest of {product} is lovely
others asked for it in the forum
""",
)

KINDS = (API_RATE_LIMIT, BUG_REPORT, DATA_EXPORT, FEATURE_REQUEST)
