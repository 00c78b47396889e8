"""Makes the embedded base: `python -m apprentice_pipeline.demo.pretrain --turns FILE --out DIR`.

One linear recipe, seeded throughout: turns → tokenizer → topics → exercises → training →
folder. It reads one file of dialogue turns and nothing else. Promises: the same file, torch
build, processor kind and thread count give the same weights.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from apprentice_pipeline.demo.pretraining.batches import batches
from apprentice_pipeline.demo.pretraining.card import write_card
from apprentice_pipeline.demo.pretraining.exercises import gather
from apprentice_pipeline.demo.pretraining.optimise import Schedule, Shape, new_model, train
from apprentice_pipeline.demo.pretraining.topics import build_lexicon, find_topics
from apprentice_pipeline.demo.pretraining.turns import plain, read_turns
from apprentice_pipeline.demo.pretraining.vocabulary import train_tokenizer
from apprentice_pipeline.distill.runtime import reuse_memory, share_cores

GRAINS = (40, 150, 500, 1500)
SEED = 20
CYCLES = (1400, 1000)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the recipe; progress goes to stderr."""
    options = _parser().parse_args(argv)
    share_cores()
    import torch

    reuse_memory()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    schedule = Schedule(cycles=tuple(options.cycles))
    pretrain(options.turns, options.out, Shape(), schedule, options.seed)
    return 0


def pretrain(turns_file: Path, out: Path, shape: Shape, schedule: Schedule, seed: int) -> None:
    """Reads `turns_file`, trains, writes model, tokenizer and `recipe.json` into `out`."""
    turns = read_turns(turns_file)
    texts = [turn.text for turn in turns]
    said = [turn.before for turn in turns if turn.before]
    _say(f"{len(turns)} turns")
    tokenizer = train_tokenizer(
        [*texts, *map(plain, texts), *map(plain, texts), *said],
        shape.vocabulary,
        shape.context_tokens,
    )
    lexicon = build_lexicon([*texts, *said])
    topics = find_topics(texts, lexicon, GRAINS, seed)
    material = gather(turns, lexicon, topics, seed)
    model = new_model(shape, tokenizer, seed)
    _say(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    curve: list[tuple[int, float]] = []

    def report(step: int, loss: float, seconds: float) -> None:
        curve.append((step, round(loss, 4)))
        _say(f"step {step} loss {loss:.3f} {seconds:.0f}s")

    started, cpu = time.monotonic(), time.process_time()
    stream = batches(material, tokenizer, seed, schedule.batch_size, schedule.max_tokens)
    train(model, stream, schedule, seed, report)
    spent = {
        "wall_seconds": round(time.monotonic() - started),
        "cpu_seconds": round(time.process_time() - cpu),
    }
    _write(model, tokenizer, out, {**_facts(shape, schedule, seed), **spent, "loss_curve": curve})


def _write(model: object, tokenizer: object, out: Path, facts: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.config._attn_implementation = "sdpa"  # type: ignore[attr-defined]
    model.half().save_pretrained(out, safe_serialization=True)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(out)  # type: ignore[attr-defined]
    (out / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    card = write_card(facts, model.num_parameters())  # type: ignore[attr-defined]
    (out / "README.md").write_text(card, encoding="utf-8")


def _facts(shape: Shape, schedule: Schedule, seed: int) -> dict[str, object]:
    import torch

    return {
        "seed": seed,
        "shape": asdict(shape),
        "schedule": asdict(schedule),
        "grains": GRAINS,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pretrain", description=__doc__)
    parser.add_argument("--turns", type=Path, required=True, help="turns.jsonl or turns.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--cycles", type=int, nargs="+", default=CYCLES, help="steps of each cycle")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
