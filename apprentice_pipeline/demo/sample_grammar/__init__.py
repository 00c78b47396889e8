"""The phrase grammar of the sample data: kinds of request, manners, and how they are spoken.

`purchases`, `accounts`, `technical` and `elsewhere` hold the phrasings by kind, `manners` what
people wrap around them, `speech` turns grammar into text and `similarity` keeps texts apart.
`apprentice_pipeline.demo.samples` puts them together.
"""
