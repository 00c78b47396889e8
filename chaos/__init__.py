"""`make chaos`: kill -9 at random instants under load, then proof that nothing was lost.

`load` asks as customers do and notes what was wholly delivered, `victim` is the gateway and its
processes, `proof` compares what was delivered with what was kept, `run` puts them together.
Not part of the package: nothing in `apprentice_pipeline` imports it. Linux only (`/proc`).
"""
