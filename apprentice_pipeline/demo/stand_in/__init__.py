"""The stand-in frontier's parts: what it answers, how it writes it, how it serves it.

`answers` decides, `request` reads, `openai_shapes` and `anthropic_shapes` write, `server` is the
ASGI application; `apprentice_pipeline.demo.frontier` runs it. Nothing here imports `wire/`: the
stand-in checks our reading of the provider formats, so it must not share it.
"""
