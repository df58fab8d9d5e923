"""Lightning, Hugging Face's Trainer, Accelerate and PEFT train a constrained model as any other.

They are not among the packages of `make test`; `make test-frameworks` installs them. Models and
data are made here: nothing is fetched.
"""

import copy
import importlib
import os
import pathlib
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import riemopt
from riemopt import constrain, constraints
from riemopt.manifolds import Sphere, Stiefel

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CLASSES = {
    "sgd": (riemopt.RiemannianSGD, {"lr": 0.05, "momentum": 0.9}),
    "adam": (riemopt.RiemannianAdam, {"lr": 0.01}),
    "adamw": (riemopt.RiemannianAdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
every_class = pytest.mark.parametrize("name", CLASSES)


def _network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 1))
    constrain(net[0], "weight", Stiefel())
    constrain(net[2], "weight", Sphere())
    return net


def _data():
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, x[:, :1].sin())


def _loader():
    return DataLoader(_data(), batch_size=8)


def _make(name, model):
    cls, options = CLASSES[name]
    return cls(model.parameters(), **options)


def _assert_same(model, other):
    for (name, p), q in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def _assert_trained(model, start):
    found = constraints(model)
    assert found
    assert all(c.satisfied for c in found), found
    state, before = model.state_dict(), start.state_dict()
    assert all(not torch.equal(state[c.name], before[c.name]) for c in found)


# --- Lightning -------------------------------------------------------------------------------


def _lit(name, with_scheduler=True):
    lightning = pytest.importorskip("pytorch_lightning")

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = _network()

        def training_step(self, batch, index):
            x, y = batch
            return nn.functional.mse_loss(self.net(x), y)

        def configure_optimizers(self):
            optimizer = _make(name, self)
            if not with_scheduler:
                return optimizer
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=40)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Lit()


def _lightning_trainer(folder, **options):
    lightning = pytest.importorskip("pytorch_lightning")
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **options,
    )


quiet_lightning = pytest.mark.filterwarnings("ignore")  # it warns of few workers and the like


@quiet_lightning
@every_class
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
    ],
    ids=str,
)
def test_lightning_fits(name, options, tmp_path):
    model = _lit(name)
    start = copy.deepcopy(model.net).to(torch.float64 if "64-true" in options.values() else None)
    _lightning_trainer(tmp_path, max_epochs=2, **options).fit(model, _loader())
    _assert_trained(model.net, start)


@quiet_lightning
@every_class
def test_lightning_takes_the_steps_of_a_plain_loop(name, tmp_path):
    model, net = _lit(name, with_scheduler=False), _network()
    _lightning_trainer(tmp_path, max_epochs=2, gradient_clip_val=0.1).fit(model, _loader())
    optimizer = _make(name, net)
    for _ in range(2):
        for x, y in _loader():
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
    _assert_same(model.net, net)


@quiet_lightning
@every_class
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_resumes_as_if_uninterrupted(name, precision, tmp_path):
    options = {"precision": precision, "gradient_clip_val": 0.5, "accumulate_grad_batches": 2}
    whole, first, second = _lit(name), _lit(name), _lit(name)
    _lightning_trainer(tmp_path, max_epochs=4, **options).fit(whole, _loader())
    trainer = _lightning_trainer(tmp_path, max_epochs=2, **options)
    trainer.fit(first, _loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _lightning_trainer(tmp_path, max_epochs=4, **options).fit(
        second, _loader(), ckpt_path=tmp_path / "half.ckpt"
    )
    _assert_same(second, whole)
    assert all(c.satisfied for c in constraints(second))


# --- Hugging Face ----------------------------------------------------------------------------


def _language_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 32, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    constrain(model.transformer.h[0].mlp.c_fc, "weight", Stiefel())
    constrain(model.transformer.wte, "weight", Sphere())  # the weight of lm_head too: they are tied
    return model


def _sentences():
    tokens = torch.randint(32, (16, 12), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": t, "labels": t} for t in tokens]


def _hf_trainer(model, folder, *, max_steps=8, **options):
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=max_steps,
        save_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        lr_scheduler_type="cosine",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    return transformers.Trainer(model, arguments, train_dataset=_sentences(), **options)


def _given(model, name):
    return {"optimizers": (_make(name, model), None)}


def _named(model, name):
    return {"optimizer_cls_and_kwargs": CLASSES[name]}


@pytest.mark.filterwarnings("ignore")
@every_class
@pytest.mark.parametrize("way", [_given, _named])
def test_hugging_face_trains_and_resumes_as_if_uninterrupted(name, way, tmp_path):
    whole, resumed = _language_model(), _language_model()
    start = copy.deepcopy(whole)
    trainer = _hf_trainer(whole, tmp_path, **way(whole, name))
    trainer.train()
    _assert_trained(whole, start)
    text = repr(getattr(trainer.optimizer, "optimizer", trainer.optimizer))
    assert CLASSES[name][0].__name__ in text
    assert "1 on Stiefel(), " in text or "1 on Sphere(), " in text
    _hf_trainer(resumed, tmp_path, **way(resumed, name)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    _assert_same(resumed, whole)
    assert all(c.satisfied for c in constraints(resumed))


@pytest.mark.filterwarnings("ignore")
def test_a_saved_hugging_face_model_is_constrained_again_and_keeps_its_values(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = _language_model()
    _hf_trainer(model, tmp_path, max_steps=2, **_named(model, "adam")).train()
    model.save_pretrained(tmp_path / "model")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert not constraints(loaded)  # files hold values, not constraints
    before = copy.deepcopy(loaded)
    constrain(loaded.transformer.wte, "weight", Sphere())
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    torch.testing.assert_close(loaded.lm_head.weight, before.lm_head.weight, rtol=0, atol=1e-6)


# --- Accelerate ------------------------------------------------------------------------------


def _accelerator(**options):
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return accelerate.Accelerator(cpu=True, **options)


def _prepared(accelerator, name):
    net = _network()
    optimizer = _make(name, net)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return net, accelerator.prepare(net, optimizer, _loader(), scheduler)


def _accelerated_epoch(accelerator, parts):
    model, optimizer, loader, scheduler = parts
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore")
@every_class
def test_accelerate_accumulates_clips_and_steps_as_a_plain_loop(name):
    accelerator = _accelerator(gradient_accumulation_steps=2)
    net, parts = _prepared(accelerator, name)
    _accelerated_epoch(accelerator, parts)
    plain = _network()
    optimizer = _make(name, plain)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for i, (x, y) in enumerate(_loader()):
        (nn.functional.mse_loss(plain(x), y) / 2).backward()
        if i % 2:
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    _assert_same(net, plain)
    _assert_trained(net, _network())


@pytest.mark.filterwarnings("ignore")
@every_class
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_accelerate_saves_and_loads_its_state(name, mixed_precision, tmp_path):
    options = {"gradient_accumulation_steps": 2, "mixed_precision": mixed_precision}
    accelerator = _accelerator(**options)
    net, parts = _prepared(accelerator, name)
    _accelerated_epoch(accelerator, parts)
    accelerator.save_state(tmp_path)
    _accelerated_epoch(accelerator, parts)

    accelerator = _accelerator(**options)
    resumed, again = _prepared(accelerator, name)
    accelerator.load_state(tmp_path)
    _accelerated_epoch(accelerator, again)
    _assert_same(resumed, net)
    assert all(c.satisfied for c in constraints(resumed))


# --- PEFT ------------------------------------------------------------------------------------


@pytest.fixture
def adapters(monkeypatch):
    """The recipe of examples/peft_adapters.py."""
    pytest.importorskip("peft")
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent / "examples"))
    return importlib.import_module("peft_adapters")


def _logits(model):
    text = torch.arange(96).view(2, 48)
    with torch.no_grad():
        return model(text).logits


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_peft_stay_orthonormal_and_merge(adapters):
    model, figures = adapters.train("riemopt", 0, 60)
    found = constraints(model)
    assert len(found) == 2 * 2 * 7  # U and V of seven linear layers in each of two blocks
    assert all(c.satisfied for c in found), found
    free = {n for n, p in model.named_parameters() if p.requires_grad} - {c.name for c in found}
    assert {name.rpartition(".")[2] for name in free} == {"S"}
    _, lora = adapters.train("LoRA", 0, 60)
    assert figures["test loss"] < lora["test loss"] + 0.1

    expected = _logits(model)
    with model.disable_adapter():
        assert (_logits(model) - expected).abs().max() > 0.1
    merged = model.merge_and_unload()
    assert not constraints(merged)
    torch.testing.assert_close(_logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_peft_are_saved_and_loaded(adapters, tmp_path):
    peft = pytest.importorskip("peft")
    model, _ = adapters.train("riemopt", 0, 5)
    state = peft.get_peft_model_state_dict(model)
    assert {name.rpartition(".")[2] for name in state} == {"U", "S", "weight"}
    torch.save(state, tmp_path / "adapters.pt")
    other, _ = adapters.train("riemopt", 0, 1)  # the same frozen model
    assert not torch.equal(_logits(other), _logits(model))
    peft.set_peft_model_state_dict(other, torch.load(tmp_path / "adapters.pt", weights_only=True))
    assert torch.equal(_logits(other), _logits(model))
    assert all(c.satisfied for c in constraints(other))


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_peft_start_at_nothing(adapters):
    start = adapters.US(nn.Linear(adapters.RANK, 8, bias=False))
    assert torch.equal(start.weight, torch.zeros(8, adapters.RANK))


@pytest.mark.filterwarnings("ignore")
def test_the_snippets_of_the_page(tmp_path, monkeypatch):
    """Those of docs/moving-from-torch-optim.md that need the frameworks."""
    _accelerator()
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    page = pathlib.Path(__file__).parent.parent / "docs" / "moving-from-torch-optim.md"
    blocks = re.findall(
        r"^```(python|text)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    assert [kind for kind, _ in blocks].count("text") == 3
    namespace = {"__name__": "page"}
    for number, (_, text) in enumerate(blocks):
        exec(compile(text, f"{page.name}, block {number}", "exec"), namespace)
