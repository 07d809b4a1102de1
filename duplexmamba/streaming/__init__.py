"""Batches of unequal rows, and streaming state as a value.

Every part of the model is `forward(x, state) -> (y, state)`. `state` is what the previous call of
the same stream returned, and None at its start. Modules keep no state themselves. A state

- is a tree of frozen dataclasses and tuples; its leaves are tensors, or None;
- has the rows of the batch first in every leaf, so that rows can be selected, joined and forked;
- is not changed in place;
- means the same as None where all its leaves are zero: `state.reset` starts a row anew by zeros.
  Integer leaves, such as counters, are allowed and start from zero too;
- has the same structure, shapes and dtypes after every chunk, and so a constant size (the KV cache
  of a Transformer language model is the exception: it grows);
- holds whatever is summed up over the whole past in float32 at least, also under bfloat16 autocast.
  Copies of the latest inputs, such as those of a convolution, keep the dtype of the inputs;
- is left unchanged by padding, that is by steps past the length of a row, and by an empty chunk.

tests/test_streaming.py checks this for every registered mixer, connector and language model.
"""
