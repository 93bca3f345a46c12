"""A small BERT in a folder, for detectors that read text.

mmdet's GLIP and GroundingDINO take their language model by a name, which transformers
looks up at a hub unless it is a folder.
"""

from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ('cat', 'dog', 'bird')
TEXT = ' . '.join(WORDS)
VOCABULARY = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *WORDS)


def write(folder):
    """Write vocabulary, config and random weights; the folder is the model's name."""
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    tokenizer = BertTokenizerFast(str(folder / 'vocab.txt'), model_max_length=256)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=768,  # which GLIP's fusion does not ask of the config
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)
