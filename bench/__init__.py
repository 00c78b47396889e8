"""Benchmarks: each compares, side by side in one run, with what a user would pick instead."""
