"""A small text-to-image model of our own, and what the demo draws with it: prompts in, a picture out, as
diffusers draws them, patched, and patched with int8 weights.

`digits.safetensors` and `digits.json` are the model, which scripts/tools/train_digits.py made.
"""
