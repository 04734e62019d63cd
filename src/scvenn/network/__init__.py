"""From a minibatch to latents and to the loss.

In reading order: ``minibatch``, ``gaussians``, ``layers``, ``branch``, ``vae``
(inference, generative, loss), ``predictions``.
"""
