"""The commented `apprentice.yaml` that `apprentice init` writes. It loads as it stands."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = """\
# apprentice.yaml — every key is optional; what stands here commented out is the default.

tasks:
  - name: classify_ticket              # a task is a namespace: a-z 0-9 _ -
    description: "Classify support tickets by category and priority"
    input_schema: {text: str}
    output_schema: {category: str, priority: int}
    evaluator: structured_match        # or: semantic_similarity, exact_match, package.module:name
    match_fields: [category, priority] # fields that must agree; default: all of output_schema
    # confidence_thresholds:
    #   phase1_to_phase2: 1000         # train pairs before the first local model
    #   phase2_to_phase3: 0.85         # correlation whose lower bound lets it serve
    #   coaching_trigger: 0.70         # below this over a window, sampling goes to 100 %
    #   emergency_threshold: 0.50      # proven below this, everything goes remote
    # budget: {daily: 10.00}           # what the product itself may spend on this task

remote:
  provider: anthropic                  # or: openai, gemini
  model: claude-sonnet-4-5-20250929
  api_key_env: ANTHROPIC_API_KEY       # the name of the variable, never the key
  # additional_providers:
  #   - {provider: openai, model: gpt-4o, api_key_env: OPENAI_API_KEY}
  # endpoints:                         # for gateways, private deployments and tests
  #   openai: "https://api.openai.com"
  #   anthropic: "https://api.anthropic.com"
  #   gemini: "https://generativelanguage.googleapis.com"
  # prices:                            # USD per million tokens, where the built-in table lacks one
  #   my-model: {input: 3.00, output: 15.00}

local:
  backend: embedded                    # or: ollama, vllm, llama_cpp
  base_model: embedded                 # or a Hugging Face id or folder; see `apprentice doctor`
  # fine_tune_batch_size: 100          # new train pairs before a retraining

# verify: {fraction: 0.2, k: 3, floor: 1.0}   # resample a fifth, three times; all must agree
# distill: {threshold: 1000, holdout_fraction: 0.15}
# kscore: {gate: 0.85, min_fidelity: 0.70, min_holdout: 100, non_inferiority_margin: 0.03}
# serving: {max_disagreement: 0.05, risk_delta: 0.05, promotion: auto}
# sampling: {decay_function: exponential, min_floor: 0.02, window_size: 100}
# budget: {daily: 10.00, weekly: 50.00, monthly: 150.00}
# capture: {max_bytes: 8000000}
# gateway: {host: 127.0.0.1, port: 8710, workers: 1}
# store: {lake_uri: "", state_url: ""}  # object store and PostgreSQL for more than one machine
# registry: {tracking_uri: ""}          # an MLflow server instead of the home's SQLite
# alerts: {webhook: ""}
"""
