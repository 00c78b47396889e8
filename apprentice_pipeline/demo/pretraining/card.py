"""The model card that travels with the weights: what they are, whose data, which licence."""

from collections.abc import Mapping
from typing import Any

_CARD = """---
license: cc-by-sa-4.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [llama, lora-base, structured-output]
---

# Embedded base

A Llama of {parameters:,} parameters ({layers} layers of {width}, vocabulary {vocabulary:,},
context {context:,} tokens), pre-trained from scratch to read a short request and answer with a
small JSON object. It is a starting point for LoRA, not an assistant: untuned, its answers mean
little.

## Data and licence

Trained on one data set and nothing else: the user turns, annotations and agent turns of the
**Schema-Guided Dialogue** dataset, Abhinav Rastogi, Xiaoxue Zang, Srinivas Sunkara, Raghav Gupta
and Pranav Khaitan, *Towards Scalable Multi-domain Conversational Agents: The Schema-Guided
Dialogue Dataset*, AAAI 2020, licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).
Changes: turns were taken out of their dialogues, deduplicated, partly lower-cased, and rewritten
as exercises as described below. These weights and this tokenizer are shared under the same
licence, **CC BY-SA 4.0**; the code that made them is under the project's own.

## Recipe

    python -m apprentice_pipeline.demo.pretrain --turns turns.jsonl.gz --out DIR

Byte-level BPE on the turns (any script is encodable). Exercises drawn from the turns: the
annotated intent, domain and slots under varying keys and spellings; clusters of the text at
{grains} classes; label sets of code words; the telling words of a request;
plain dialogue. Next-token loss, plus a reading loss that asks for the request's words at the last
prompt token. Muon and AdamW, cosine cycles of {cycles} steps of {batch_size} exercises,
{precision}. Everything is in `recipe.json`. Evaluation data was never part of it.

This run took {wall_minutes:.0f} minutes by the clock and {cpu_minutes:.0f} minutes of processor
time on {threads} threads{shared}.

**Deterministic** means: the same turns file, code, torch build ({torch}) and kind of processor
are meant to give the same weights.
Another kind of processor sums in another order and gives slightly different weights.

## Limits

English requests of everyday services; other languages are encodable but were never seen. It
knows no facts, follows no free instructions, and carries the gaps and tilt of its one source.
"""


def write_card(facts: Mapping[str, Any], parameters: int) -> str:
    """README.md for the weights; `facts` is what `recipe.json` holds."""
    shape, schedule = facts["shape"], facts["schedule"]
    wall, cpu = facts["wall_seconds"], facts["cpu_seconds"]
    busy = cpu < 0.85 * wall * facts["threads"]
    return _CARD.format(
        parameters=parameters,
        layers=shape["layers"],
        width=shape["width"],
        vocabulary=shape["vocabulary"],
        context=shape["context_tokens"],
        grains=", ".join(str(grain) for grain in facts["grains"]),
        cycles=" and ".join(f"{steps:,}" for steps in schedule["cycles"]),
        batch_size=schedule["batch_size"],
        precision="bfloat16 products" if schedule["half_precision"] else "float32",
        wall_minutes=wall / 60,
        cpu_minutes=cpu / 60,
        shared=" shared with other work" if busy else "",
        threads=facts["threads"],
        torch=facts["torch"],
    )
