"""The seven assets, in the order the data flows. Each is a thin call into `stages`.

Belongs here: partition keys, asset checks, metadata. Assets return references and counts,
never rows: nothing of a pair reaches Dagster's storage.
"""

import dagster as dg

from apprentice_pipeline.orchestration import metadata
from apprentice_pipeline.orchestration.partitions import STREAM_DAYS, STREAMS, TO_STREAM, stream_of
from apprentice_pipeline.orchestration.pipeline import Pipeline
from apprentice_pipeline.orchestration.stream import Stream
from apprentice_pipeline.stages import (
    adapter,
    artifact,
    capture,
    holdout,
    promotion,
    score,
    verification,
)

GROUP = "apprentice"


def stream_day(context: dg.AssetExecutionContext) -> tuple[str, str, str]:
    """The (tenant, namespace, day) of the running partition."""
    key = context.partition_key
    assert isinstance(key, dg.MultiPartitionKey)
    return *stream_of(key.keys_by_dimension["stream"]), key.keys_by_dimension["day"]


@dg.asset(partitions_def=STREAM_DAYS, group_name=GROUP, kinds={"deltalake"})
def captured_pairs(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:
    """One day of a stream's exchanges, drained from the gateway's spools into the lake."""
    with pipeline.translated():
        collected = capture.collect(pipeline.workspace, *stream_day(context))
    return dg.MaterializeResult(metadata=metadata.of_captures(collected))


@dg.asset(deps=[captured_pairs], partitions_def=STREAM_DAYS, group_name=GROUP, kinds={"deltalake"})
def verified_pairs(
    context: dg.AssetExecutionContext, pipeline: dg.ResourceParam[Pipeline]
) -> dg.MaterializeResult:
    """Verdicts on one day's pairs: structure on all, k-sample self-consistency on a fraction."""
    with pipeline.translated():
        verified = verification.verify_pending(
            pipeline.workspace, *stream_day(context), progress=pipeline.progress
        )
    return dg.MaterializeResult(metadata=metadata.of_verdicts(verified))


@dg.asset(
    deps=[dg.AssetDep(verified_pairs, partition_mapping=TO_STREAM)],
    partitions_def=STREAMS,
    group_name=GROUP,
    kinds={"polars"},
    check_specs=[
        dg.AssetCheckSpec("no_leakage", asset="holdout_split", blocking=True),
        dg.AssetCheckSpec("coherence", asset="holdout_split", blocking=True),
    ],
)
def holdout_split(stream: dg.ResourceParam[Stream]) -> dg.MaterializeResult:
    """The corpus: deduplicated, split by a stable hash, frozen under one root hash."""
    with stream.pipeline.translated():
        frozen = holdout.freeze(stream.workspace, *stream.names)
    return dg.MaterializeResult(
        metadata=metadata.of_corpus(frozen),
        data_version=dg.DataVersion(frozen.root),
        check_results=metadata.corpus_checks(frozen, stream.workspace.config.distill),
    )


@dg.asset(deps=[holdout_split], partitions_def=STREAMS, group_name=GROUP, kinds={"pytorch"})
def lora_adapter(stream: dg.ResourceParam[Stream]) -> dg.MaterializeResult:
    """LoRA weights trained on the train side, loss on completions only."""
    with stream.pipeline.translated():
        trained = adapter.train(
            stream.workspace,
            *stream.names,
            base_model=stream.pipeline.base_model,
            target_bytes=stream.pipeline.target_bytes,
            progress=stream.pipeline.progress,
        )
    return dg.MaterializeResult(metadata=metadata.of_adapter(trained))


@dg.asset(
    deps=[lora_adapter, holdout_split],
    partitions_def=STREAMS,
    group_name=GROUP,
    kinds={"pytorch"},
    check_specs=[dg.AssetCheckSpec("kscore_gate", asset="kscore_eval", blocking=True)],
)
def kscore_eval(stream: dg.ResourceParam[Stream]) -> dg.MaterializeResult:
    """The student against the captured teacher answers on the frozen holdout: K and the gate."""
    with stream.pipeline.translated():
        scored = score.evaluate_adapter(
            stream.workspace, *stream.names, progress=stream.pipeline.progress
        )
    return dg.MaterializeResult(
        metadata=metadata.of_score(scored), check_results=[metadata.gate_check(scored)]
    )


@dg.asset(
    deps=[kscore_eval, lora_adapter],
    partitions_def=STREAMS,
    group_name=GROUP,
    check_specs=[dg.AssetCheckSpec("signature_verifies", asset="signed_artifact", blocking=True)],
)
def signed_artifact(stream: dg.ResourceParam[Stream]) -> dg.MaterializeResult:
    """The signed `.kolm`: adapter, receipt chain, scores, model card, bill of materials."""
    with stream.pipeline.translated():
        signed = artifact.pack_and_sign(stream.workspace, *stream.names)
        verified = artifact.verify_file(stream.workspace, signed.path)
    return dg.MaterializeResult(
        metadata=metadata.of_artifact(signed, verified),
        data_version=dg.DataVersion(signed.digest),
        check_results=[metadata.signature_check(signed, verified)],
    )


@dg.asset(deps=[signed_artifact], partitions_def=STREAMS, group_name=GROUP, kinds={"mlflow"})
def registered_model(stream: dg.ResourceParam[Stream]) -> dg.MaterializeResult:
    """The artifact as a version in the registry; promoted, or left for a person to promote."""
    with stream.pipeline.translated():
        registry = stream.pipeline.registry
        registered = promotion.register(stream.workspace, registry, *stream.names)
        versions = registry.versions(*stream.names)
    return dg.MaterializeResult(metadata=metadata.of_model(registered, versions))


ASSETS = [
    captured_pairs,
    verified_pairs,
    holdout_split,
    lora_adapter,
    kscore_eval,
    signed_artifact,
    registered_model,
]
