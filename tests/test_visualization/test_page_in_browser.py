"""The page in a real browser: the number under the pointer is the model's."""

import shutil

import pytest
import torch
import zoo
from explored import Explored, explore
from oracles import randomize

from mmmanikey.engine.build import build_from
from mmmanikey.engine.cli import read_config
from mmmanikey.visualization.attention import record_attention
from mmmanikey.visualization.inputs import load_model, read_image
from mmmanikey.visualization.page.explore import Source, write_page
from mmmanikey.visualization.rollout import rollout

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group('browser'),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason='no Chromium: install it, as by `apt-get install chromium`',
    ),
]
SWIN = dict(
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    window_size=4,
    pad_small_map=True,
    out_indices=(0, 1),
)
VIT = dict(
    arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=64,
    patch_size=16,
)
WAIT = 120_000  # ms that a busy machine may take


@pytest.fixture(scope='module')
def explored(tmp_path_factory):
    return explore(tmp_path_factory.mktemp('explored'))


@pytest.fixture(scope='module')
def browser():
    sync_api = pytest.importorskip(
        'playwright.sync_api', reason='no Playwright: pip install playwright'
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=['--disable-gpu'], timeout=WAIT
        )
        yield browser
        browser.close()


class Window:
    """The page in a window, and all that went wrong in it."""

    def __init__(self, browser, page, width=1600, scheme='light'):
        self.context = browser.new_context(
            viewport=dict(width=width, height=900), color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.complaints = []
        self.page.on('console', lambda message: self.complaints.append(message.text))
        self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
        self.page.on('request', self.see_request)
        self.address = f'file://{page}'
        self.page.goto(self.address)
        self.page.wait_for_selector('#readout .value')
        self.stages = self.page.locator('canvas.stage')

    def see_request(self, request):
        if request.url != self.address and not request.url.startswith('data:'):
            self.complaints.append(request.url)

    def settle(self):
        """Until everything is drawn."""
        self.page.evaluate(
            'async () => { let last; do { last = drawing; await last; }'
            ' while (last !== drawing); }'
        )

    def choose_layer(self, name):
        self.page.get_by_label(name, exact=True).check(force=True)
        self.settle()

    def point(self, place, stage=0, click=False):
        """Point at y and x in pixels of the image."""
        self.stages.nth(stage).scroll_into_view_if_needed()
        box = self.stages.nth(stage).bounding_box()
        x = box['x'] + place[1] / 80 * box['width']
        y = box['y'] + place[0] / 64 * box['height']
        self.page.mouse.move(x, y)
        if click:
            self.page.mouse.down()
            self.page.mouse.up()
        self.settle()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def readout(self):
        return self.page.locator('#readout').inner_text()

    def values(self):
        return [float(each) for each in self.page.locator('.value').all_inner_texts()]

    def pixels(self, stage=0):
        return self.stages.nth(stage).evaluate('canvas => canvas.toDataURL()')


@pytest.fixture
def window(browser, explored):
    window = Window(browser, explored.page)
    yield window
    assert window.complaints == []
    window.context.close()


def attention(explored, layer, query):
    """Plain models' attention, for each its heads, (num_heads, h, w)."""
    return [
        record_attention(model.backbone, model.input(explored.image), layer, query)[0]
        for model in explored.models
    ]


def assert_numbers(values, expected):
    assert values == pytest.approx([float(each) for each in expected], abs=1 / 255)


def test_pointing_and_holding(window, explored):
    """In windows without and with shift, at the edge, in stages of two strides."""
    for layer, stride, query, other in (
        (0, 4, (5, 9), (6, 10)),
        (1, 4, (1, 19), (0, 18)),
        (3, 8, (3, 5), (4, 4)),
    ):
        window.choose_layer(f'layer {layer}')
        places = [tuple((at + 0.3) * stride for at in each) for each in (query, other)]
        found = [heads.mean(dim=0) for heads in attention(explored, layer, query)]
        window.point(places[0])
        assert f'token row {query[0]}, column {query[1]} →' in window.readout()
        assert_numbers(window.values(), [each[query] for each in found])
        window.point(places[0], click=True)
        window.point(places[1], stage=1)
        assert f'column {query[1]} (held) → row {other[0]}' in window.readout()
        assert_numbers(window.values(), [each[other] for each in found])
        assert min(each[other] for each in found) > 1 / 100  # there is something
        window.point(places[0], click=True)
        assert 'held' not in window.readout()


def test_a_head(window, explored):
    window.choose_layer('layer 2')
    window.point((20, 20))
    buttons = window.page.get_by_role('group', name='Heads of manifold')
    buttons.get_by_role('button').nth(3).click()
    window.settle()
    window.point((20, 20))
    assert_numbers(
        window.values(), [heads[2, 2, 2] for heads in attention(explored, 2, (2, 2))]
    )
    pressed = window.page.locator('[aria-pressed=true]').all_inner_texts()
    assert [each.split(' · ')[0] for each in pressed] == ['head 2', 'head 2']


def test_rollout(window, explored):
    window.choose_layer('rollout')
    window.point((60, 70), click=True)
    window.point((13, 33))
    expected = [
        rollout(model.backbone, model.input(explored.image), (1, 2))[3, 8]
        for model in explored.models
    ]
    assert 'rollout, token row 1, column 2 (held) → row 3, column 8' in window.readout()
    assert_numbers(window.values(), expected)


def test_difference(window, explored):
    """Its scale is the largest of the plain models' differences."""
    window.choose_layer('layer 1')
    window.point((10, 10))
    first, second = (heads.mean(dim=0) for heads in attention(explored, 1, (2, 2)))
    column = window.page.get_by_role('region', name='Difference')
    shown = float(column.locator('.legend span').last.inner_text())
    assert shown == pytest.approx((second - first).abs().max().item(), abs=2 / 255)


def test_keyboard_alone(window, explored):
    window.press('Tab')
    assert window.page.evaluate('document.activeElement.name') == 'layer'
    window.press('ArrowLeft')  # from rollout's neighbour, the last layer
    assert window.readout().startswith('layer 6')
    for _ in range(8):
        if window.page.evaluate('document.activeElement.className') == 'stage':
            break
        window.press('Tab')
    window.press('PageUp', 'PageUp', 'PageUp')
    assert window.readout().startswith('layer 3')
    start = [4, 5]  # the middle of the image
    assert f'token row {start[0]}, column {start[1]} ' in window.readout()
    window.press('ArrowUp', 'ArrowLeft', 'Enter')
    window.press('ArrowDown')
    assert 'token row 3, column 4 (held) → row 4, column 4' in window.readout()
    found = [heads.mean(dim=0) for heads in attention(explored, 3, (3, 4))]
    assert_numbers(window.values(), [each[4, 4] for each in found])
    window.press('Escape')
    assert 'token row 4, column 4 →' in window.readout()
    window.press(*['ArrowDown'] * 9)
    assert 'token row 7, column 4 →' in window.readout()  # the last in the image


def test_switches_change_the_picture(window):
    before = window.pixels()
    for name in ('grid', 'all windows', 'detections', 'masks', 'ground truth'):
        switch = window.page.get_by_label(name, exact=True)
        switch.click(force=True)
        window.settle()
        assert window.pixels() != before, name
        switch.click(force=True)
        window.settle()
        assert window.pixels() == before, name


@pytest.mark.parametrize('width', [360, 1600])
@pytest.mark.parametrize('scheme', ['dark', 'light'])
def test_sizes_colours_and_names(browser, explored, width, scheme):
    window = Window(browser, explored.page, width, scheme)
    page = window.page
    window.point((30, 30))
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    ground = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, ground[4:-1].split(','))) < 150) == (scheme == 'dark')
    unnamed = page.evaluate("""() =>
        [...document.querySelectorAll('canvas, button, input, section, [role]')]
            .filter((each) => !each.ariaHidden && !each.ariaLabel && !each.innerText
                && !each.labels?.length)
            .map((each) => each.outerHTML)""")
    assert unnamed == []
    assert page.locator('[role=status]').inner_text().startswith('layer 7')
    label = window.stages.first.get_attribute('aria-label')
    assert 'token row' in label
    if width == 360:  # one below the other
        boxes = [window.stages.nth(i).bounding_box() for i in range(2)]
        assert boxes[0]['x'] == boxes[1]['x']
        assert boxes[0]['width'] > 300
    assert window.complaints == []
    window.context.close()


@pytest.fixture(scope='module')
def unlike(tmp_path_factory):
    """A page of Swin, and of a ViT with a class token, whose grids differ."""
    folder = tmp_path_factory.mktemp('unlike')
    zoo.image(folder / 'a.png', (80, 64))
    sources = []
    head = dict(type='VisionTransformerClsHead', num_classes=5, in_channels=8)
    for name, kind, options, rest in (
        ('swin', 'ManifoldKeySwin', SWIN, {}),
        ('vit', 'ManifoldKeyViT', VIT, dict(type='ImageClassifier', head=head)),
    ):
        backbone = dict(type=f'mmmanikey.{kind}', **options)
        config = folder / f'{name}.py'
        content = dict(backbone=backbone, **rest)
        config.write_text(f"default_scope = 'mmpretrain'\nmodel = {content}")
        model = build_from(read_config(str(config)), whole=bool(rest))
        randomize(model, std=0.2)
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
        sources.append(Source(str(config), str(folder / f'{name}.pth')))
    image = read_image(folder / 'a.png')
    page = folder / 'page.html'
    notes = write_page(sources, folder / 'a.png', image, page)
    models = [load_model(*source) for source in sources]
    return Explored(page, dict(classifier=model.eval()), models, image, notes)


def test_grids_that_differ_are_compared_by_place(browser, unlike):
    """Swin's layers 0 and 3 stand beside the ViT's 0 and 1."""
    window = Window(browser, unlike.page)
    notes = window.page.locator('#notes').inner_text()
    assert all(note in notes for note in unlike.notes)
    swin, vit = unlike.models
    window.choose_layer('layer 1')
    window.point((20.5, 50.5))
    found = [
        record_attention(model.backbone, model.input(unlike.image), number, place)[0]
        for model, number, place in ((swin, 3, (2, 6)), (vit, 1, (1, 3)))
    ]
    first, second = (heads.mean(dim=0) for heads in found)
    assert_numbers(window.values(), [first[2, 6], second[1, 3]])
    column = window.page.get_by_role('region', name='Difference')
    shown = float(column.locator('.legend span').last.inner_text())
    wide = second.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
    reach = (wide[: first.shape[0], : first.shape[1]] - first).abs().max()
    assert shown == pytest.approx(reach.item(), abs=2 / 255)
    window.page.get_by_label('from the class token', exact=True).check(force=True)
    window.settle()
    window.point((20.5, 50.5))
    row = record_attention(vit.backbone, vit.input(unlike.image), 1, 'cls')[0]
    assert_numbers(window.values(), [first[2, 6], row.mean(dim=0)[1, 3]])
    window.choose_layer('rollout × gradients')  # which the first has not
    window.point((20.5, 50.5))
    expected = rollout(
        unlike.data['classifier'],
        vit.input(unlike.image),
        score=lambda scores: scores[0].max(),
    )[1, 3]
    assert_numbers(window.values(), [expected])
    assert 'gradients of class' in window.page.inner_text('#stages')
    assert window.complaints == []
    window.context.close()


def test_the_picture_shows_the_window_alone(window, explored):
    """Heat where the plain attention is, darkness where the token cannot see."""
    window.choose_layer('layer 1')
    window.page.get_by_label('grid', exact=True).click(force=True)
    window.point((30, 30))
    seen = attention(explored, 1, (7, 7))[1].mean(dim=0) > 0
    heat = torch.tensor(
        window.page.evaluate("""() => {
            const layer = sources[1].opened;
            return layer.then((each) => [...each.look(state.query, -1, false)]);
        }""")
    ).view_as(seen)
    assert torch.equal(heat > 0, seen)
    # rows and columns 6 to 9 of tokens of 4 px: white at their right end alone
    white, dark = window.stages.first.evaluate("""canvas => {
        const scale = canvas.width / 80;
        const context = canvas.getContext('2d');
        const row = context.getImageData(0, 33 * scale, canvas.width, 1).data;
        const at = (x) => 4 * Math.round(x * scale);
        return [40, 60].map((x) => [...row.slice(at(x), at(x) + 4)]);
    }""")
    assert min(white) > 240
    assert max(dark[:3]) < 240
