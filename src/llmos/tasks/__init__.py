"""What a user asks of a model: generate, chat, translate, classify, entities. Text in, text out.

Engines deal in token ids and scores; everything textual (templates, tokens, stop strings,
sentences) is here. Torch-free.
"""
