"""The stages of the embedded base's pre-training, one module each.

`turns` reads the dialogue turns, `vocabulary` trains the tokenizer, `topics` finds label
sets in the text itself, `exercises` writes request → JSON examples, `optimise` trains.
`apprentice_pipeline.demo.pretrain` runs them in that order. Nothing here sees evaluation data.
"""
