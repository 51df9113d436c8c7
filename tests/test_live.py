"""The engine of the living pages in a real browser, against PyTorch and the real tokenizers."""

import json
import random
import shutil
import unicodedata

import pytest
import torch
from transformers import BertTokenizerFast

from course_utils import assets, corpora, pretrained, sampling
from tests.live_tools import serving
from tools import live_masks

# ``course_live`` is the Sphinx extension that writes what the engine reads.
from _ext import course_live  # isort: skip

TEXTS = (
    *("The weather is", "Once upon a time, there was a little", "a", "  two  spaces", "\n\n"),
    *("The cat sat on the", "My sister opened the old box, and inside she found", "1 + 1 =", "é"),
    *("<|endoftext|>", "The end.<|endoftext|>Once", "def f(x):\n    return", "It's John's; we'll"),
    "The President said to the Congress that the people of the United States " * 6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    course_live.write_engine(folder)
    return folder


@pytest.fixture(scope="module")
def page(browser, folder):
    """A page whose engine has loaded the model over http."""
    with serving(folder) as address:
        page = browser.new_page()
        page.goto(f"{address}/engine.html")
        page.evaluate(
            "Promise.all([live.engine.load(), live.engine.loadWordPiece()]).then(() => 0)"
        )
        yield page
        page.close()


@pytest.fixture(scope="module")
def model():
    return course_live.mini()[0]


@pytest.fixture(scope="module")
def gpt2():
    return course_live.mini()[1]


def asked(page, expression, *arguments):
    """Return what an expression of `a`, the arguments, is in the page; promises are awaited."""
    return page.evaluate(f"(async (a) => {expression})", list(arguments))


# --- tokens ------------------------------------------------------------------------------------


def odd_strings(n):
    """Return strings of all kinds of characters that Unicode 12 knew, seeded."""
    draw = random.Random(17)
    blocks = [(0x20, 0x7F), (0x80, 0x250), (0x370, 0x600), (0x900, 0x980), (0xE00, 0xE80)]
    blocks += [(0x2000, 0x2070), (0x3000, 0x30FF), (0x4E00, 0x4F00), (0x1F300, 0x1F640)]
    blocks += [(0x9, 0xE), (0x1C, 0x21), (0x85, 0x86), (0xFEFF, 0xFF00), (0x300, 0x340)]
    bits = [" ", "  ", "\n", "'s", "'LL", "\u00a0", "\u200b", "\ufeff", "2024", "the", " The", "#"]

    def one():
        if draw.random() < 0.4:
            return draw.choice(bits)
        low, high = draw.choice(blocks)
        character = chr(draw.randrange(low, high))
        return character if unicodedata.ucd_3_2_0.category(character) != "Cn" else "x"

    return ["".join(one() for _ in range(draw.randrange(1, 30))) for _ in range(n)]


def test_ids_and_round_trip_on_thousands_of_odd_strings(page, gpt2):
    strings = [*odd_strings(5000), *TEXTS]
    ours = asked(
        page,
        "Promise.all(a[0].map(async (text) => { const { ids } = await live.engine.encode(text);"
        " return [ids, await live.engine.decode(ids)]; }))",
        strings,
    )
    for text, (ids, back) in zip(strings, ours, strict=True):
        assert ids == gpt2.encode(text), repr(text)
        assert back == text


def test_wordpiece_ids_on_odd_strings(page):
    bert = BertTokenizerFast(str(assets.get("bert-vocabulary") / "vocab.txt"))
    strings = [*odd_strings(3000), *TEXTS, "x" * 101, "unputdownable 🙂 [CLS]"[:-6]]
    ours = asked(
        page,
        "Promise.all(a[0].map((text) => live.engine.wordpiece(text).then((w) => w.ids)))",
        strings,
    )
    for text, ids in zip(strings, ours, strict=True):
        assert ids == bert.encode(text, add_special_tokens=False), repr(text)


def test_the_merges_of_a_word_lead_from_bytes_to_its_tokens(page, gpt2):
    stages = asked(page, "live.engine.merges(' unputdownable')")
    assert len(stages[0]["ids"]) == len(" unputdownable")
    assert stages[-1]["ids"] == gpt2.encode(" unputdownable")
    joined = [stage["joined"] for stage in stages[1:]]
    assert all(id_ in stage["ids"] for id_, stage in zip(joined, stages[1:], strict=True))
    assert joined == sorted(joined), "an earlier line of merges.txt was passed over"


# --- the model -----------------------------------------------------------------------------------


def logits_of(page, ids, edits=None):
    wanted = {"logits": True, "edits": edits or {}}
    found = asked(
        page,
        "live.engine.next(a[0], a[1]).then((n) => ({ top: n.top, logits: Array.from(n.logits) }))",
        ids,
        wanted,
    )
    return torch.tensor(found["logits"]), found["top"]


@pytest.mark.parametrize("text", TEXTS)
def test_logits_are_those_of_pytorch_on_the_same_weights(page, model, gpt2, text):
    ids = gpt2.encode(text)
    ours, top = logits_of(page, ids)
    theirs = model(torch.tensor([ids])).logits[0, -1]
    assert (ours - theirs).abs().max() < 1e-4
    best = theirs.softmax(-1).topk(10)
    assert [id_ for _, _, id_ in top] == best.indices.tolist()
    assert [p for _, p, _ in top] == pytest.approx(best.values.tolist(), abs=5e-5)
    assert [token for token, _, _ in top] == [gpt2.decode([i]) for i in best.indices]


def test_the_rounded_weights_predict_what_the_exact_ones_do(model, gpt2):
    """As live.md says, on 2,400 places of the course's own prose."""
    exact = (
        type(model).from_pretrained(pretrained.folder_of("gpt2-mini"), dtype=torch.float32).eval()
    )
    texts = [text for text in corpora.load_text("course-prose").split("\n") if len(text) > 300]
    ids = torch.tensor([gpt2.encode(text)[:60] for text in texts[:40]])  # (40, 60)
    with torch.no_grad():
        before, after = (m(ids).logits.softmax(-1).flatten(0, 1) for m in (exact, model))
    likeliest = before.argmax(-1, keepdim=True)  # (2400, 1)
    moved = (before - after).abs()
    assert moved.gather(1, likeliest).median() < 0.005
    assert moved.max() < 0.04
    assert (after.argmax(-1, keepdim=True) == likeliest).float().mean() >= 0.97


def test_a_text_that_grows_shrinks_and_changes_gets_the_logits_of_a_fresh_one(page, model, gpt2):
    for text in (
        "The cat sat",
        "The cat sat on the old",
        "The cat sat on",
        "The dog sat on",
        "The",
    ):
        ids = gpt2.encode(text)
        ours, _ = logits_of(page, ids)
        assert (ours - model(torch.tensor([ids])).logits[0, -1]).abs().max() < 1e-4, text


def test_past_the_window_the_oldest_quarter_is_forgotten(page, model, gpt2):
    ids = gpt2.encode("All work and no play makes a dull text. " * 40)
    assert len(ids) > 256
    ours, _ = logits_of(page, ids[:257])
    assert (ours - model(torch.tensor([ids[64:257]])).logits[0, -1]).abs().max() < 1e-4


SHAPES = {
    "norm 1": (1, 256),
    "q, k and v": (1, 768),
    "context": (1, 256),
    "attention": (1, 256),
    "after attention": (1, 256),
    "norm 2": (1, 256),
    "widened": (1, 1024),
    "hidden": (1, 1024),
    "MLP": (1, 256),
    "block out": (1, 256),
}


def traced(page, ids, edits=None):
    """Return the trace as tensors, by (layer, name), the layer "" outside of the blocks."""
    flat = asked(
        page,
        """live.engine.trace(a[0], a[1]).then(({ steps }) => {
             const out = [];
             const add = (layer, part) => Object.entries(part).forEach(([name, t]) => {
               if (t.data) out.push([layer, name, t.shape, Array.from(t.data, (v) => isFinite(v) ? v : -1e30)]);
               else add(name, t);
             });
             add("", steps);
             return out; })""",
        ids,
        edits or {},
    )
    return {(layer, name): torch.tensor(data).view(shape) for layer, name, shape, data in flat}


def listened(model, ids):
    """Return the library's own intermediates under the names of chapter 6."""
    seen, hooks = {}, []
    tail = {"ln_1": "norm 1", "attn.c_attn": "q, k and v", "attn.c_proj": "attention"}
    tail |= {"ln_2": "norm 2", "mlp.c_fc": "widened", "mlp.act": "hidden", "mlp.c_proj": "MLP"}

    def keep(*key):
        def hook(_, inputs, output):
            seen[key] = (output[0] if isinstance(output, tuple) else output)[0]
            if key[1] == "attention":
                seen[key[0], "context"] = inputs[0][0]
            if key[1] == "norm 2":
                seen[key[0], "after attention"] = inputs[0][0]

        return hook

    for name, module in model.transformer.named_modules():
        if name in ("wte", "ln_f"):
            key = ("", {"wte": "token rows", "ln_f": "final norm"}[name])
            hooks.append(module.register_forward_hook(keep(*key)))
        elif name.startswith("h."):
            _, layer, *rest = name.split(".")
            part = tail.get(".".join(rest)) or ("block out" if not rest else None)
            if part:
                hooks.append(module.register_forward_hook(keep(layer, part)))
    out = model(torch.tensor([ids]), output_attentions=True, use_cache=True)
    for hook in hooks:
        hook.remove()
    seen["", "logits"] = out.logits[0, -1]
    for layer, (weights, kept) in enumerate(
        zip(out.attentions, out.past_key_values.layers, strict=True)
    ):
        seen[str(layer), "weights"] = weights[0]
        seen[str(layer), "keys"], seen[str(layer), "values"] = kept.keys[0], kept.values[0]
    return seen


def test_every_intermediate_of_the_trace_is_pytorchs(page, model, gpt2):
    ids = gpt2.encode("My sister opened the old box")
    ours, theirs = traced(page, ids), listened(model, ids)
    assert {name for _, name in ours} >= {*SHAPES, "scores", "weights", "keys", "values", "logits"}
    assert len(theirs) == 3 + 6 * 13
    for key, tensor in theirs.items():
        assert ours[key].shape == tensor.shape, key
        assert (ours[key] - tensor).abs().max() < 1e-4, key
    for layer in range(6):
        scores = ours[str(layer), "scores"]
        assert (scores.softmax(-1) - theirs[str(layer), "weights"]).abs().max() < 1e-5


def with_edits(model, ids, *, heads=(), mlps=(), causal=True, prefix=1, positions=True):
    """Return the logits of PyTorch's model with parts switched off by hooks."""
    hooks, d_k = [], model.config.n_embd // model.config.n_head

    def silence(head):
        def hook(_, inputs):
            x = inputs[0].clone()
            x[..., head * d_k : (head + 1) * d_k] = 0
            return (x,)

        return hook

    for layer, head in heads:
        projection = model.transformer.h[layer].attn.c_proj
        hooks.append(projection.register_forward_pre_hook(silence(head)))
    for layer in mlps:
        projection = model.transformer.h[layer].mlp.c_proj
        hooks.append(projection.register_forward_hook(lambda *a: torch.zeros_like(a[-1])))
    rows = model.transformer.wte.weight[torch.tensor([ids])]
    if not positions:  # what the model will add is taken away before
        rows = rows - model.transformer.wpe.weight[: len(ids)]
    hidden = ~live_masks.prefix_mask(len(ids), prefix if causal else len(ids))
    mask = torch.zeros(1, 1, *hidden.shape).masked_fill(hidden, -1e9)
    logits = model(inputs_embeds=rows, attention_mask=mask).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return logits


EDITS = {
    "nothing": {},
    "one head": {"heads": [[2, 1]]},
    "all heads of a block": {"heads": [[0, 0], [0, 1], [0, 2], [0, 3]]},
    "an MLP": {"mlps": [3]},
    "two MLPs and a head": {"mlps": [0, 5], "heads": [[5, 3]]},
    "no mask": {"causal": False},
    "a prefix": {"prefix": 5},
    "a prefix longer than the text": {"prefix": 99, "heads": [[1, 1]]},
    "no positions": {"positions": False},
    "all at once": {"mlps": [1], "heads": [[4, 0]], "causal": False, "positions": False},
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_what_is_switched_off_is_off_as_in_pytorch(page, model, gpt2, edits):
    ids = gpt2.encode("The weather is cold today, so I will wear my")
    theirs = with_edits(model, ids, **edits)
    ours, _ = logits_of(page, ids, edits)
    whole = model(torch.tensor([ids])).logits[0, -1]
    assert (ours - theirs).abs().max() < 1e-4
    assert ((ours - whole).abs().max() > 0.01) == bool(edits), "the switch is not connected"


@pytest.mark.parametrize(
    ("bits", "scale"), [*((bits, "row") for bits in (2, 3, 4, 6)), (3, "matrix"), (8, "matrix")]
)
def test_fewer_bits_are_the_same_weights_rounded_again(page, gpt2, bits, scale):
    ids = gpt2.encode("The weather is cold today")
    ours, _ = logits_of(page, ids, {"bits": bits, "scale": scale})
    theirs = course_live.with_bits(bits, scale)(torch.tensor([ids])).logits[0, -1]
    assert (ours - theirs).abs().max() < 2e-3


# --- sampling --------------------------------------------------------------------------------------

KNOBS = (
    {"temperature": 0.7},
    {"temperature": 1.8},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 10**6},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"temperature": 1.3, "top_k": 200, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.2},
)


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_the_knobs_do_what_course_utils_does(page, knobs, ties):
    torch.manual_seed(len(str(knobs)))
    logits = 3 * torch.randn(4000)
    logits = logits.round() if ties else logits
    previous = torch.randint(4000, (30,))
    theirs = logits[None]
    if penalty := knobs.get("repetition_penalty"):
        theirs = sampling.penalize_repetition(theirs, previous[None], penalty)
    theirs = sampling.scale_temperature(theirs, knobs.get("temperature", 1.0))
    for name in ("top_k", "top_p", "min_p"):
        if name in knobs:
            theirs = getattr(sampling, f"keep_{name}")(theirs, knobs[name])
    ours = asked(
        page,
        "Array.from(live.softmax(live.reshape(a[0], a[1], a[2])))",
        logits.tolist(),
        knobs,
        previous.tolist(),
    )
    assert torch.tensor(ours) == pytest.approx(theirs[0].double().softmax(-1), abs=1e-6)
    assert [p > 0 for p in ours] == (theirs[0] > -torch.inf).tolist()


def test_a_draw_follows_the_probabilities(page):
    p = [0.5, 0.0, 0.3, 0.2]
    drawn = asked(page, "a[1].map((u) => live.draw(a[0], u))", p, [i / 1000 for i in range(1000)])
    assert [drawn.count(i) for i in range(4)] == pytest.approx([500, 0, 300, 200], abs=1)
    assert asked(page, "live.draw([0.5, 0.49999999, 0], 0.9999999999)") == 1


# --- faults, folders, the cache ---------------------------------------------------------------------


def test_it_works_from_a_folder_on_disk(browser, folder, model, gpt2):
    page = browser.new_page()
    page.goto((folder / "engine.html").as_uri())
    config = page.evaluate("live.engine.load()")
    assert config["n_layer"] == 6
    ids = gpt2.encode("The weather is")
    ours, _ = logits_of(page, ids)
    page.close()
    assert (ours - model(torch.tensor([ids])).logits[0, -1]).abs().max() < 1e-4


def said(page, expression):
    """Return the sentence with which a promise is broken."""
    return page.evaluate(f"{expression}.then(() => 'no fault', (error) => error.message)")


def without(folder, tmp_path, *missing):
    """Copy the site, leave files out, and return where the copy is."""
    shutil.copytree(folder, tmp_path / "site")
    for name in missing:
        (tmp_path / "site" / "_static" / "live" / "model" / name).unlink()
    return tmp_path / "site"


def test_a_missing_model_is_a_sentence_and_can_be_tried_again(browser, folder, tmp_path):
    site = without(folder, tmp_path, "gpt2-mini.bin")
    with serving(site) as address:
        page = browser.new_page()
        page.goto(f"{address}/engine.html")
        assert "The site answered 404 when asked for gpt2-mini.bin" in said(
            page, "live.engine.load()"
        )
        model = folder / "_static" / "live" / "model" / "gpt2-mini.bin"
        shutil.copyfile(model, site / "_static" / "live" / "model" / "gpt2-mini.bin")
        assert page.evaluate("live.engine.load().then((config) => config.n_embd)") == 256
        page.close()


def test_a_model_that_is_cut_short_is_a_sentence(browser, folder, tmp_path):
    site = without(folder, tmp_path)
    path = site / "_static" / "live" / "model" / "gpt2-mini.bin"
    path.write_bytes(path.read_bytes()[:1000])
    with serving(site) as address:
        page = browser.new_page()
        page.goto(f"{address}/engine.html")
        assert "has 1,000 bytes where" in said(page, "live.engine.load()")
        page.close()


def test_a_folder_without_its_scripts_is_a_sentence(browser, folder, tmp_path):
    site = without(folder, tmp_path, "merges.txt.js")
    page = browser.new_page()
    page.goto((site / "engine.html").as_uri())
    assert "merges.txt.js is not beside this page" in said(page, "live.engine.load()")
    page.close()


def test_loading_tells_how_far_it_is_and_can_be_stopped(browser, folder):
    with serving(folder) as address:
        page = browser.new_page()
        page.goto(f"{address}/engine.html")
        stopped = said(
            page,
            "(() => { const stop = new AbortController(); window.shares = [];"
            "return live.engine.load({ signal: stop.signal, progress: (share) => {"
            "  shares.push(share); if (share > 0.2) stop.abort(); } }); })()",
        )
        assert stopped.startswith("Loading was stopped")
        shares = page.evaluate("shares")
        assert shares == sorted(shares) and 0.2 < shares[-1] < 1
        assert page.evaluate("live.engine.load().then(() => live.engine.ready)")
        page.close()


def test_the_browser_keeps_the_model_and_forgets_older_ones(browser, folder):
    with serving(folder) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/engine.html")
        page.evaluate(
            "caches.open('course-live').then((c) => c.put(live.base + 'model/gpt2-mini.bin?v=old', new Response('x')))"
        )
        page.evaluate("live.engine.load().then(() => 0)")
        page.wait_for_function("live.isCached('gpt2-mini.bin')")
        asked_for = []
        page.on("request", lambda request: asked_for.append(request.url))
        page.reload()
        page.evaluate("live.engine.load().then(() => 0)")
        assert not [url for url in asked_for if "/model/" in url]
        kept = page.evaluate(
            "caches.open('course-live').then(async (c) => (await c.keys()).map((r) => r.url))"
        )
        assert len(kept) == 2 and not [url for url in kept if url.endswith("v=old")]
        context.close()


def test_a_dead_worker_is_a_sentence(browser, folder):
    with serving(folder) as address:
        page = browser.new_page()
        page.goto(f"{address}/engine.html")
        page.evaluate("live.engine.load().then(() => 0)")
        fault = said(
            page,
            "(() => { const next = live.engine.next([1]); live.engine.worker.onerror(); return next; })()",
        )
        assert "stopped unexpectedly" in fault and "load it again" in fault
        assert page.evaluate("live.engine.load().then(() => live.engine.ready)")
        page.close()


def test_what_the_reader_loads_is_no_more_than_18_megabytes(folder):
    text = (folder / "_static" / "live" / "assets.js").read_text().splitlines()[0]
    table = json.loads(text.removeprefix("live.assets = ").rstrip(";\n"))
    assert table["gpt2-mini.bin"]["bytes"] <= 18_000_000
    for name, entry in table.items():
        path = folder / "_static" / "live" / "model" / name
        assert path.stat().st_size == entry["bytes"]


@pytest.mark.parametrize("scale", ["row", "matrix"])
def test_two_bits_leave_zero_and_one_size_to_all_that_share_a_scale(scale):
    weights = dict(course_live.weights_of(course_live.with_bits(2, scale)))
    matrix = course_live.rows_first("h.0.attn.c_attn.weight", weights["h.0.attn.c_attn.weight"])
    for part in [matrix[0], matrix[5]] if scale == "row" else [matrix]:
        sizes = part.abs()[part != 0]
        assert (part == 0).any() and sizes.min().item() == pytest.approx(sizes.max().item())
    assert len(matrix.abs().unique()) > 100 or scale == "matrix"
