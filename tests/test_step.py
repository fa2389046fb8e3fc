"""One optimiser step does what its settings say: no more, no less, and never with NaN."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from training import gradients, make_batch, make_learner, small_recipe, weights

from bratskit.networks import UNet
from bratskit.settings import LossSettings
from bratskit.train import NotFiniteError, dice_ce_loss, learning_rate, make_loss
from bratskit.train.average import WeightAverage


def make_twins(n: int = 2, *, norm: str = "instance") -> list[UNet]:
    """Return networks with the same weights."""
    first = UNet(4, 4, channels=(4, 8), norm=norm)
    twins = [first] + [UNet(4, 4, channels=(4, 8), norm=norm) for _ in range(n - 1)]
    for twin in twins[1:]:
        twin.load_state_dict(first.state_dict())
    return twins


def one_by_one(image: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    return [(image[at : at + 1], labels[at : at + 1]) for at in range(len(image))]


def test_four_accumulated_batches_equal_one_batch_of_four():
    network, twin = make_twins()
    image, labels = make_batch(4)
    loss = make_learner(network, batch=4).step([(image, labels)])
    parts = one_by_one(image, labels)
    assert make_learner(twin, batch=1, accumulate=4).step(parts) == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gradients(twin), gradients(network), atol=1e-6)


def test_four_accumulated_batches_move_the_weights_as_one_batch_of_four_does():
    network, twin = make_twins()  # plain descent: AdamW blows rounding up where gradients vanish
    plain = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.1, "clip_norm": 0}
    whole = make_learner(network, batch=4, **plain)
    parts = make_learner(twin, batch=1, accumulate=4, **plain)
    for seed in range(3):
        image, labels = make_batch(4, seed)
        whole.step([(image, labels)])
        parts.step(one_by_one(image, labels))
    assert (whole.step_number, parts.step_number) == (3, 3)
    torch.testing.assert_close(weights(twin), weights(network), rtol=0, atol=2e-6)


KINDS = [
    (targets, name)
    for targets, other in (("labels", "ce"), ("regions", "bce"))
    for overlap in ("dice", "generalised_dice", "tversky")
    for name in (overlap, f"{overlap}_{other}", f"{overlap}_focal")
]


@pytest.mark.parametrize(("targets", "name"), KINDS)
def test_accumulation_is_exact_in_float64_whatever_the_loss(targets: str, name: str):
    # float32 leaves 1e-6, and 1e-4 where rounding moves a feature over the kink of its LeakyReLU
    recipe = dataclasses.replace(small_recipe(), targets=targets, loss=LossSettings(name=name))
    image, labels = make_batch(4)
    labels[0], labels[1] = 0, labels[1].clamp(max=2)  # no tumour; no enhancing tumour
    found = []
    for size in (4, 1):
        torch.manual_seed(0)
        network = UNet(4, recipe.out_channels, channels=(4, 8), norm="instance").double()
        learner = make_learner(network, batch=size, accumulate=4 // size, clip_norm=0)
        learner.loss = make_loss(recipe)
        loss = learner.step(list(zip(image.double().split(size), labels.split(size), strict=True)))
        found.append((loss, gradients(network)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-8)


def test_a_patch_is_learned_with_its_own_labels():
    network, twin = make_twins()
    image, labels = make_batch(2)
    labels[0] = 0
    expected = sum(dice_ce_loss(twin(a), b) for a, b in one_by_one(image, labels)) / 2
    expected.backward()
    loss = make_learner(network, clip_norm=0).step([(image, labels)])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradients(network), gradients(twin), rtol=1e-3, atol=1e-6)


def test_gradients_are_zeroed_between_steps(tiny_unet):
    learner = make_learner(tiny_unet.eval(), learning_rate=1e-30, clip_norm=1e9)
    learner.step([make_batch(1)])
    first = gradients(tiny_unet).clone()
    learner.step([make_batch(1)])  # same weights, same batch: twice the gradient if not zeroed
    assert torch.allclose(gradients(tiny_unet), first, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16: only after it was unscaled
def test_the_gradient_is_clipped_to_its_norm(precision: str, tiny_unet):
    make_learner(tiny_unet, clip_norm=0.01, precision=precision).step([make_batch(1)])
    assert gradients(tiny_unet).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(at, total=100, peak=1.0, warmup=0.1) for at in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (at + 1) for at in range(10)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0)
    assert rates[55] == pytest.approx(0.5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_the_loss_and_moves_fp32_weights(precision: str, tiny_unet):
    image, labels = make_batch(2)
    expected = dice_ce_loss(tiny_unet(image), labels).item()
    before = weights(tiny_unet)
    loss = make_learner(tiny_unet, precision=precision).step([(image, labels)])
    assert loss == pytest.approx(expected, rel=0.02)
    assert weights(tiny_unet).dtype == torch.float32
    assert not torch.equal(weights(tiny_unet), before)


def test_a_nan_in_an_image_stops_by_case_step_and_place(tiny_unet):
    learner = make_learner(tiny_unet)
    before = weights(tiny_unet)
    image, labels = make_batch(1)
    image[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match=r"at step 1 .*BraTS_7.*First not finite: the image"):
        learner.step([(image, labels)], name="epoch 1, cases BraTS_7")
    assert torch.equal(weights(tiny_unet), before)


def test_a_nan_inside_the_network_names_the_layer(tiny_unet):
    tiny_unet.down[0][1].register_forward_hook(lambda *inputs: inputs[2] * math.inf)
    with pytest.raises(NotFiniteError, match=r"First not finite: layer down\.0\.1"):
        make_learner(tiny_unet).step([make_batch(1)])


def test_fp16_skips_some_steps_but_does_not_learn_nothing_for_ever(tiny_unet):
    learner = make_learner(tiny_unet, precision="fp16")
    before = weights(tiny_unet)
    tiny_unet.head.weight.register_hook(lambda gradient: gradient * math.nan)
    for _ in range(16):  # 65,536 halved 16 times is 1
        learner.step([make_batch(1)])
    with pytest.raises(NotFiniteError, match=r"gradient norm must be finite; got nan at step 17"):
        learner.step([make_batch(1)])
    assert torch.equal(weights(tiny_unet), before)


# -- fp16: its scaler


def test_an_fp16_step_is_an_fp32_step_to_its_precision_when_clipped():
    steps = []
    for network, precision in zip(make_twins(), ("fp32", "fp16"), strict=True):
        before = weights(network)
        plain = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 1.0, "clip_norm": 0.1}
        make_learner(network, precision=precision, **plain).step([make_batch(2)])
        steps.append(weights(network) - before)
    assert steps[0].norm().item() == pytest.approx(0.1, rel=5e-3)  # rate times clipped norm
    assert (steps[1] - steps[0]).norm().item() < 0.05 * 0.1


def test_an_overflow_now_and_then_is_skipped_and_forgotten(tiny_unet):
    learner = make_learner(tiny_unet, precision="fp16", ema_decay=0.9)
    learner.step([make_batch(1)])
    before, averaged = weights(tiny_unet), weights(learner.average.network)
    hook = tiny_unet.head.weight.register_hook(lambda gradient: gradient * math.inf)
    learner.step([make_batch(1)])
    assert torch.equal(weights(tiny_unet), before)
    assert torch.equal(weights(learner.average.network), averaged)
    assert learner.scaler.get_scale() == 32768
    hook.remove()
    learner.step([make_batch(1)])
    assert not torch.equal(weights(tiny_unet), before)
    assert not torch.equal(weights(learner.average.network), averaged)


# -- naming the first number that is not finite


def poison(image: torch.Tensor, at: int) -> torch.Tensor:
    image = image.clone()
    image[at, 0, 0, 0, 0] = math.nan
    return image


@pytest.mark.parametrize("bad", range(4))
def test_of_an_accumulated_step_the_one_bad_case_is_named(tiny_unet, bad: int):
    learner = make_learner(tiny_unet, batch=2, accumulate=2, ema_decay=0.9)
    before = weights(tiny_unet)
    image, labels = make_batch(4)
    image = poison(image, bad)
    pairs = [(image[:2], labels[:2]), (image[2:], labels[2:])]
    said = rf"at step 1 \(epoch 3, cases {'ABCD'[bad]}\)\. First not finite: the image"
    with pytest.raises(NotFiniteError, match=said):
        learner.step(pairs, name="epoch 3", ids=list("ABCD"))
    assert torch.equal(weights(tiny_unet), before)
    assert torch.equal(weights(learner.average.network), before)


def test_a_case_that_only_the_network_cannot_bear_is_named():
    image, labels = make_batch(2)
    image[1] += 9
    network = make_twins(1)[0]
    network.stem[0].register_forward_hook(
        lambda _, images, features: (
            features / (images[0].mean((1, 2, 3, 4)) < 5).view(-1, 1, 1, 1, 1)
        )
    )
    with pytest.raises(NotFiniteError, match=r"cases B\)\. First not finite: layer stem\.0"):
        make_learner(network).step([(image, labels)], name="epoch 1", ids=["A", "B"])


def test_a_bad_gradient_names_the_parameter_nearest_to_the_loss(tiny_unet):
    tiny_unet.stem[0].weight.register_hook(lambda gradient: gradient * math.nan)
    tiny_unet.up[0].weight.register_hook(lambda gradient: gradient * math.nan)
    said = r"norm must be finite; got nan at step 1 \(epoch 1, cases A, B\)\. .*of up\.0\.weight"
    with pytest.raises(NotFiniteError, match=said):
        make_learner(tiny_unet).step([make_batch(2)], name="epoch 1", ids=["B", "A"])


class Deep(nn.Module):
    """Answer twice in training, as a network under deep supervision does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UNet(4, 4, channels=(4, 8), norm="instance")

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        logits = self.inner(image)
        return (logits, logits[..., ::2, ::2, ::2]) if self.training else logits


def test_under_deep_supervision_the_case_and_the_layer_are_named_too():
    network = Deep()
    network.inner.merge[0][3].register_forward_hook(lambda *io: io[2] * math.nan)
    learner = make_learner(network, ema_decay=0.5)
    learner.loss = lambda logits, labels: dice_ce_loss(logits[0], labels)
    with pytest.raises(NotFiniteError, match=r"cases A, B\)\. .*: layer inner\.merge\.0\.3"):
        learner.step([make_batch(2)], name="epoch 1", ids=["A", "B"])


# -- optimisers and schedules


def test_each_optimiser_is_the_one_named():
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    for name, kind in kinds.items():
        made = make_learner(UNet(4, 4, channels=(4, 8)), optimiser=name, weight_decay=0.01)
        assert type(made.optimiser) is kind
        assert made.optimiser.param_groups[0]["weight_decay"] == 0.01
    group = made.optimiser.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.99, True)


def test_sgd_takes_nesterovs_step():
    network, twin = make_twins()
    settings = {"optimiser": "sgd", "momentum": 0.5, "learning_rate": 0.1, "weight_decay": 0.0}
    learner = make_learner(network, schedule="constant", clip_norm=0, **settings)
    expected, velocity = weights(twin), 0.0
    for seed in range(2):
        nn.utils.vector_to_parameters(expected, twin.parameters())
        twin.zero_grad()
        dice_ce_loss(twin(make_batch(1, seed)[0]), make_batch(1, seed)[1]).backward()
        velocity = 0.5 * velocity + gradients(twin)
        expected = expected - 0.1 * (gradients(twin) + 0.5 * velocity)
        learner.step([make_batch(1, seed)])
    torch.testing.assert_close(weights(network), expected, rtol=0, atol=1e-6)


def test_schedules_by_hand():
    at = {"total": 100, "peak": 2.0, "warmup": 0.0}
    assert learning_rate(25, schedule="poly", **at) == pytest.approx(2 * 0.75**0.9)
    assert learning_rate(100, schedule="poly", **at) == 0
    assert learning_rate(99, schedule="constant", **at) == 2
    at["warmup"] = 0.2
    for name in ("cosine", "poly", "constant"):
        assert learning_rate(4, schedule=name, **at) == pytest.approx(0.5)
        assert learning_rate(20, schedule=name, **at) == pytest.approx(2)


def test_the_rate_of_a_step_is_that_of_its_number(tiny_unet):
    learner = make_learner(tiny_unet, schedule="poly", epochs=1, steps_per_epoch=4)
    rates = [learner.step([make_batch(1)]) and learner.lr for _ in range(4)]
    assert rates == pytest.approx([1e-3 * (1 - at / 4) ** 0.9 for at in range(4)])


def test_a_clip_norm_of_nothing_clips_nothing():
    network, twin = make_twins()
    dice_ce_loss(twin(make_batch(1)[0]), make_batch(1)[1]).backward()
    make_learner(network, clip_norm=0).step([make_batch(1)])
    assert gradients(network).norm().item() == pytest.approx(gradients(twin).norm().item())


# -- the average of the weights


def test_the_average_is_the_sum_by_hand():
    torch.manual_seed(0)
    network = UNet(4, 4, channels=(4, 8))  # batch norm: running statistics and a counter
    learner = make_learner(network, ema_decay=0.2)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in (1, 2, 3):
        learner.step([make_batch(2, step)])
        decay = min(0.2, (1 + step) / (10 + step))  # 2/11, then 0.2
        for name, value in network.state_dict().items():
            mixed = decay * expected[name] + (1 - decay) * value
            expected[name] = mixed if value.is_floating_point() else value.clone()
    averaged = learner.network_to_keep.state_dict()
    assert averaged["stem.1.num_batches_tracked"] == 3
    for name, value in averaged.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_the_average_learns_nothing_by_itself_and_the_network_nothing_of_it():
    network, twin = make_twins()
    learner, plain = make_learner(network, ema_decay=0.99), make_learner(twin)
    for seed in range(3):
        learner.step([make_batch(1, seed)])
        plain.step([make_batch(1, seed)])
    assert torch.equal(weights(network), weights(twin))
    average = learner.network_to_keep
    assert average is not network
    assert not average.training
    assert not any(item.requires_grad for item in average.parameters())
    assert plain.network_to_keep is twin


def test_an_average_of_weights_that_stand_still_is_those_weights(tiny_unet):
    average = WeightAverage(tiny_unet, decay=0.9)
    before = weights(tiny_unet)
    for step in range(1, 50):
        average.update(tiny_unet, step=step)
    torch.testing.assert_close(weights(average.network), before, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("precision", "optimiser"), [("fp16", "sgd"), ("fp32", "adam")])
def test_a_learner_goes_on_from_its_state_bit_for_bit(precision: str, optimiser: str):
    first, second = make_twins(norm="batch")
    settings = {"precision": precision, "optimiser": optimiser, "ema_decay": 0.9}
    learner, other = (make_learner(network, **settings) for network in (first, second))
    hook = first.head.weight.register_hook(lambda gradient: gradient * math.inf)
    if precision == "fp16":
        learner.step([make_batch(1)])  # skipped, so that the scale is no longer the first
    hook.remove()
    for seed in range(2):
        learner.step([make_batch(1, seed)])
    other.load_weights(first.state_dict())
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for one in (learner, other):
        one.step([make_batch(1, 7)])
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(weights(learner.network_to_keep), weights(other.network_to_keep))
    assert learner.scaler.state_dict() == other.scaler.state_dict()
    assert (learner.lr, learner.step_number) == (other.lr, other.step_number)


# -- less memory than was thought


class Full(nn.Module):
    """Run out of memory where more voxels than `holds` come at once."""

    def __init__(self, network: nn.Module, *, holds: int, error: Exception | None = None) -> None:
        super().__init__()
        self.inner, self.holds = network, holds
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(image))
        logits = self.inner(image)  # running statistics move before memory ends
        if image[:, 0].numel() > self.holds * 16**3:
            raise self.error
        return logits


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_out_of_memory_halves_what_is_held_and_learns_from_the_same_patches(error):
    network, twin = make_twins()
    learner = make_learner(Full(network, holds=1, error=error), batch=3, accumulate=2)
    plain = make_learner(twin, batch=3, accumulate=2)
    pairs = [make_batch(3, seed) for seed in (0, 1)]
    expected = plain.step(pairs)
    with pytest.warns(RuntimeWarning) as said:
        loss = learner.step(pairs)
    lines = [str(warning.message) for warning in said]
    assert [line.split(",")[0] for line in lines] == [
        "out of memory at step 1; going on with 2 of 3 patches at a time",
        "out of memory at step 1; going on with 1 of 3 patches at a time",
    ]
    assert learner.network.seen == [3, 2, 1, 1, 1, 1, 1, 1]
    assert loss == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradients(network), gradients(twin), atol=1e-6)
    assert learner.fallback.note == "1 of 3 patches at a time"
    learner.step(pairs)  # no second warning: it stays so
    assert learner.step_number == 2


def test_memory_that_ends_late_in_a_step_begins_the_whole_step_again():
    network, twin = make_twins()
    full = Full(network, holds=2)
    learner = make_learner(full, batch=2, accumulate=2)
    pairs = [make_batch(2, seed) for seed in (0, 1)]

    def shrink():
        yield pairs[0]
        full.holds = 1
        yield pairs[1]

    expected = make_learner(twin, batch=2, accumulate=2).step(pairs)
    with pytest.warns(RuntimeWarning, match="1 of 2 patches at a time"):
        assert learner.step(shrink()) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradients(network), gradients(twin), atol=1e-6)


def test_parts_of_unequal_size_count_by_their_patches():
    network, twin = make_twins()
    image, labels = make_batch(3)
    labels[2] = 0  # another loss than the first two
    expected = make_learner(twin, batch=3).step([(image, labels)])
    with pytest.warns(RuntimeWarning, match="2 of 3"):
        loss = make_learner(Full(network, holds=2), batch=3).step([(image, labels)])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(gradients(network), gradients(twin), atol=1e-6)


def test_batch_norm_counts_no_patch_that_was_not_learned_from_and_the_line_says_what_changes():
    network, _ = make_twins(norm="batch")
    learner = make_learner(Full(network, holds=1), batch=2)
    with pytest.warns(RuntimeWarning, match="Batch norm sees fewer patches at once"):
        learner.step([make_batch(2)])
    assert network.stem[1].num_batches_tracked == 2  # one a part; the attempt is forgotten


class Frugal(Full):
    """Hold one patch only where activations are computed twice."""

    checkpointing = False

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.holds = 1 if self.checkpointing else 0.5
        return super().forward(image)


def test_at_one_patch_activations_are_computed_twice_and_then_the_end_is_said_in_one_line():
    network = Frugal(make_twins(1)[0], holds=0)
    learner = make_learner(network, batch=1)
    with pytest.warns(RuntimeWarning, match="with activations computed twice, the patches"):
        learner.step([make_batch(1)])
    assert network.checkpointing
    other = make_learner(Frugal(make_twins(1)[0], holds=0), batch=1)
    other.fallback.load_state_dict(learner.fallback.state_dict())
    other.step([make_batch(1)])  # a run that goes on does not run out again
    before = weights(network)
    with pytest.raises(torch.OutOfMemoryError, match=r"hold one patch.*Lower training\.patch_vox"):
        make_learner(Full(network, holds=0.5), batch=1).step([make_batch(1)])
    assert torch.equal(weights(network), before)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_our_network_computes_activations_twice_to_the_same_bits(norm: str, monkeypatch):
    network, twin = make_twins(norm=norm)
    learner, plain = make_learner(network, batch=1), make_learner(twin, batch=1)
    real = learner._loss

    def loss(image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not network.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(image, labels)

    monkeypatch.setattr(learner, "_loss", loss)
    with pytest.warns(RuntimeWarning, match="activations computed twice"):
        learner.step([make_batch(1)])
    plain.step([make_batch(1)])
    for name, value in twin.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_another_error_of_the_machine_is_not_taken_for_memory(tiny_unet):
    learner = make_learner(Full(tiny_unet, holds=0, error=RuntimeError("CUDA error: misaligned")))
    with pytest.raises(RuntimeError, match="misaligned"):
        learner.step([make_batch(1)])
    assert learner.fallback.note == ""
