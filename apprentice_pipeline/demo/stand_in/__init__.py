"""The stand-in frontier's parts: what it answers, how it writes it, how it serves it.

`answers` decides, `request` reads, `openai_shapes`, `anthropic_shapes` and `gemini_shapes` write
(the last reads its own requests, too), `shelf` keeps files and batches, `server` is the ASGI
application; `apprentice_pipeline.demo.frontier` runs it. Nothing here imports `wire/`: the
stand-in checks our reading of the provider formats, so it must not share it.
"""
