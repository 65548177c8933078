"""The CUDA kernels: their source, how they are compiled, and how a GPU runs them."""
