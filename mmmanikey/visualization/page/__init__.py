"""A page that shows what the attention of one or two models does with an image.

:mod:`.explore` gathers everything and writes the page: attention as rows of bytes
(:mod:`.rows`), what a manifold key makes (:mod:`.keys`), what a detector finds
(:mod:`.objects`). :mod:`.packing` keeps it small, and :mod:`.document` puts the plain
HTML, CSS and JavaScript of ``assets/`` and the data into one file.
"""
