"""Local models: one backend a module, all behind `backend.Backend`.

    backend          what the router sees of any of them
    opening          the backend that the configuration names
    embedded         the default one: asks the embedded server
    supervisor       keeps that server's process running, one a home
    embedded_server  the process; engine, waiting, pace, shelf: what it is made of
    frames           how the two sides talk
    champions        a champion's artifact, verified for whoever loads it
    vllm, llama_cpp, ollama   servers somebody else runs (chat, preparing, merging serve them)
    embedding        texts to vectors of meaning

Belongs here: answering a conversation with an adapter, safely. Does not: deciding whether to
ask, and whether the answer is good enough (`control`, `routing`). Nothing is re-exported.
"""
