"""The two lines of the README and of docs/inherit.md, built as they stand there."""

import pages
import stock_configs
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmmanikey.backbones import ManifoldKeySwin


def two_lines(page):
    blocks = [block for block in pages.blocks(page) if block.language == 'python']
    return next(b.text for b in blocks if b.text.startswith("_base_ = 'mmdet::mask2f"))


def test_they_are_the_same_and_all_that_is_needed(tmp_path):
    text = two_lines('inherit.md')
    assert two_lines('../README.md') == text
    assert text == next(b.text for b in pages.blocks('inherit.md') if b.language)
    (tmp_path / 'two.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'two.py')
    init_default_scope('mmdet')
    backbone = cfg.model.backbone
    backbone.depths, backbone.init_cfg = [1, 1, 1, 1], None
    detector = MODELS.build(cfg.model)
    assert type(detector.backbone) is ManifoldKeySwin
    key = detector.backbone.stages[3].blocks[0].attn.w_msa.key
    assert (type(key).__name__, key.residual, key.num_charts) == ('SpatialK', True, 8)


def test_what_is_not_taken_over_is_listed_with_its_reason():
    page = (pages.ROOT / 'docs/inherit.md').read_text()
    for kind, why in stock_configs.NOT_TAKEN.items():
        assert f'| `{kind}` | {why} |' in page
