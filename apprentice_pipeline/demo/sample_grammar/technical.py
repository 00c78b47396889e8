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
""",
)

KINDS = (API_RATE_LIMIT, BUG_REPORT, DATA_EXPORT, FEATURE_REQUEST)
