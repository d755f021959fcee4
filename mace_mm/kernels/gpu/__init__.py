"""The evaluation form on a GPU, in Triton; single precision."""
