"""The shells between the store and the pure stages: gather, call, write back.

One module a stage, in the order the data flows: `capture` → `verification` → `holdout` →
`adapter` → `score` → `artifact` → `promotion`; beside them `readiness`, `report` and the
`results` each stage leaves for the next. Dagster's assets, the command line and the gateway
call these and nothing deeper. No decision is taken here.
"""
