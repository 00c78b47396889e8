"""Corpora: frozen, hashed selections of pairs, split into train and holdout.

Belongs here: deduplication, coherence, the split, slices, weights, manifests and their proofs,
all on pairs handed in. Does not: reading the lake, sealing, training.
"""

from apprentice_pipeline.corpus.building import Rebuilt, build_corpus, check_leakage, rebuild_corpus
from apprentice_pipeline.corpus.manifest import InclusionProof, Manifest, ManifestRow, merkle_root
from apprentice_pipeline.corpus.rows import Corpus, CorpusReport, CorpusRow, weight_of, weights

__all__ = [
    "Corpus",
    "CorpusReport",
    "CorpusRow",
    "InclusionProof",
    "Manifest",
    "ManifestRow",
    "Rebuilt",
    "build_corpus",
    "check_leakage",
    "merkle_root",
    "rebuild_corpus",
    "weight_of",
    "weights",
]
