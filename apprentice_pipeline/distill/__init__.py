"""Distillation: a base model and captured pairs in, a LoRA adapter out."""
