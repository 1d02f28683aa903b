"""The built-in engine: continuous batching over a key/value cache, sampling from the very tensors that learn.

sequence    one prompt, its samples, and what each has said so far
scheduler   who runs: admission within the memory budget, finished samples leave the batch
cache       keys and values of everything in flight
runner      the network over the cache: prompts many at once or in parts, then one token per sample
graphs      the same on CUDA devices, decoding by recorded graphs
packed      the decoder over weights laid out for this processor
kernels     its matrix products, compiled
fused       its layers in one call, compiled
sampler     logits to tokens and their log-probabilities
engine      submit, step, cancel
"""
