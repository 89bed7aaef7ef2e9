"""Row-wise AdamW: alone it is torch's AdamW; beside others a row does what it would have done alone."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prompt_modules import RowGroup, RowwiseAdamW, optimizer as optimizer_module

STEPS = 40


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(seed: int, *shape: int) -> list[Tensor]:
    """A gradient per step; every third is large, so that a clip at 1 acts on some steps and not on others."""
    return [draw(1000 * seed + s, *shape) * (3.0 if s % 3 == 0 else 0.05) for s in range(STEPS)]


def expected_lr(peak: float, schedule: str, done: int, warmup: int, total: int) -> float:
    """Written out from the definition: linear warm-up to the peak over ``warmup`` steps, then decay to zero at
    ``total``.
    """
    if done < warmup:
        return peak * (done + 1) / warmup
    if done >= total and schedule != "constant":
        return 0.0
    progress = (done - warmup) / (total - warmup)
    return peak * {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]


def one_step(optimizer: RowwiseAdamW, grads: dict[str, Tensor], present: list[bool]):
    (name,) = optimizer.groups
    for parameter, grad in grads.items():
        optimizer.groups[name].parameters[parameter].grad = grad.clone()
    return optimizer.step({name: torch.tensor(present)})[name]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_one_row_equals_torch(schedule: str, warmup: int, clip: float) -> None:
    u, v = nn.Parameter(draw(0, 1, 5, 2)), nn.Parameter(draw(1, 1, 2, 3))
    optimizer = RowwiseAdamW({"g": RowGroup({"u": u, "v": v}, 0.3, STEPS - 5, warmup, schedule, clip)})
    theirs = [nn.Parameter(p.detach().clone()) for p in (u, v)]
    reference = torch.optim.AdamW(theirs, lr=1.0, weight_decay=0.0)
    clipped = 0
    for step, (du, dv) in enumerate(zip(gradients(1, 1, 5, 2), gradients(2, 1, 2, 3), strict=True)):
        report = one_step(optimizer, {"u": du, "v": dv}, [True])
        theirs[0].grad, theirs[1].grad = du.clone(), dv.clone()
        norm = torch.cat([du.flatten(), dv.flatten()]).norm()
        if clip and norm > clip:  # exactly; torch's own clip has 1e-6 in its denominator, see below
            clipped += 1
            for p in theirs:
                p.grad *= clip / norm
        reference.param_groups[0]["lr"] = expected_lr(0.3, schedule, step, warmup, STEPS - 5)
        reference.step()
        assert report.lr_K.item() == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        assert report.grad_norm_K.item() == pytest.approx(norm.item(), rel=1e-12)  # before the clip
        for ours, wanted in zip((u, v), theirs, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-11)
    assert not clip or 5 < clipped < STEPS - 5
    assert (u - draw(0, 1, 5, 2)).abs().mean() > 0.1  # it moved


def test_the_clip_is_that_of_clip_grad_norm() -> None:
    u, v = nn.Parameter(draw(0, 1, 5, 2)), nn.Parameter(draw(1, 1, 2, 3))
    optimizer = RowwiseAdamW({"g": RowGroup({"u": u, "v": v}, 0.01, STEPS, clip=1.0)})
    theirs = [nn.Parameter(p.detach().clone()) for p in (u, v)]
    reference = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0)
    for du, dv in zip(gradients(1, 1, 5, 2), gradients(2, 1, 2, 3), strict=True):
        one_step(optimizer, {"u": du, "v": dv}, [True])
        theirs[0].grad, theirs[1].grad = du.clone(), dv.clone()
        nn.utils.clip_grad_norm_(theirs, 1.0)
        reference.step()
    for ours, wanted in zip((u, v), theirs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


def test_each_row_moves_as_if_it_were_alone() -> None:
    """Rows differ in learning rate, schedule length and in the steps they are absent from."""
    k, lrs, totals = 4, [0.3, 0.01, 0.1, 0.2], [30, 12, 40, 25]
    u, v = nn.Parameter(draw(0, k, 5, 2)), nn.Parameter(draw(1, k, 2, 3))
    group = RowGroup({"u": u, "v": v}, torch.tensor(lrs, dtype=torch.float64), torch.tensor(totals), 4, "cosine")
    together = RowwiseAdamW({"g": group})
    own = [(nn.Parameter(u.detach()[i : i + 1].clone()), nn.Parameter(v.detach()[i : i + 1].clone())) for i in range(k)]
    alone = [
        RowwiseAdamW({"g": RowGroup({"u": p, "v": q}, lrs[i], totals[i], 4, "cosine")}) for i, (p, q) in enumerate(own)
    ]
    presence = torch.rand(STEPS, k, generator=torch.Generator().manual_seed(5)) < torch.tensor([1.0, 0.5, 0.3, 0.8])
    for step, (du, dv) in enumerate(zip(gradients(1, k, 5, 2), gradients(2, k, 2, 3), strict=True)):
        here = presence[step]
        one_step(together, {"u": du * here[:, None, None], "v": dv * here[:, None, None]}, here.tolist())
        for i in range(k):
            if here[i]:
                one_step(alone[i], {"u": du[i : i + 1], "v": dv[i : i + 1]}, [True])
    assert group.steps_K.tolist() == presence.sum(0).tolist() and len(set(group.steps_K.tolist())) == k
    for i, (p, q) in enumerate(own):
        torch.testing.assert_close(u[i : i + 1], p, rtol=0, atol=1e-13)
        torch.testing.assert_close(v[i : i + 1], q, rtol=0, atol=1e-13)


def test_an_absent_row_is_untouched_even_by_a_gradient_that_is_not_zero() -> None:
    u = nn.Parameter(draw(0, 3, 4))
    group = RowGroup({"u": u}, 0.1, STEPS)
    optimizer = RowwiseAdamW({"g": group})
    for s, g in enumerate(gradients(1, 3, 4)[:6]):
        before = u.detach().clone(), group.moments["u"][0].clone(), group.moments["u"][1].clone(), group.steps_K.clone()
        report = one_step(optimizer, {"u": g}, [True, s < 3, True])
        if s >= 3:
            after = u.detach(), *group.moments["u"], group.steps_K
            assert all(torch.equal(a[1], b[1]) for a, b in zip(after, before, strict=True))
            assert not any(torch.equal(a[0], b[0]) for a, b in zip(after, before, strict=True))
        assert not report.skipped_K.any()
    assert group.steps_K.tolist() == [6, 3, 6]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_whose_gradient_is_not_finite_is_skipped_while_the_others_move(bad: float) -> None:
    def run(spoil: bool) -> tuple[nn.Parameter, nn.Parameter, RowGroup, list]:
        u, v = nn.Parameter(draw(0, 3, 4)), nn.Parameter(draw(1, 3, 2))
        group = RowGroup({"u": u, "v": v}, 0.1, STEPS)
        optimizer, reports = RowwiseAdamW({"g": group}), []
        for s, (du, dv) in enumerate(zip(gradients(1, 3, 4)[:8], gradients(2, 3, 2)[:8], strict=True)):
            if spoil and s in (3, 5):
                du[1, 2] = bad  # one number of one parameter: the whole row rests, in both parameters
            reports.append(one_step(optimizer, {"u": du, "v": dv}, [True, spoil or s not in (3, 5), True]))
        return u, v, group, reports

    u, v, group, reports = run(True)
    clean_u, clean_v, clean_group, _ = run(False)  # row 1 absent from steps 3 and 5
    assert torch.equal(u, clean_u) and torch.equal(v, clean_v)
    for name in ("u", "v"):
        assert all(torch.equal(a, b) for a, b in zip(group.moments[name], clean_group.moments[name], strict=True))
    assert group.steps_K.tolist() == clean_group.steps_K.tolist() == [8, 6, 8]
    assert [r.skipped_K.tolist() for r in reports] == [[False, s in (3, 5), False] for s in range(8)]


def test_an_inactive_row_is_untouched_and_not_called_skipped() -> None:
    u = nn.Parameter(draw(0, 2, 4))
    group = RowGroup({"u": u}, 0.1, STEPS)
    optimizer = RowwiseAdamW({"g": group})
    one_step(optimizer, {"u": draw(1, 2, 4)}, [True, True])
    group.active_K[0] = False
    before = u.detach().clone(), *[m.clone() for m in group.moments["u"]], group.steps_K.clone()
    spoiled = draw(2, 2, 4)
    spoiled[0] = math.nan
    report = one_step(optimizer, {"u": spoiled}, [True, True])
    after = u.detach(), *group.moments["u"], group.steps_K
    assert all(torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1]) for a, b in zip(after, before, strict=True))
    assert not report.skipped_K.any()


def test_groups_are_clipped_and_counted_apart_and_gradients_are_cleared() -> None:
    shared, own = nn.Parameter(draw(0, 1, 4)), nn.Parameter(draw(1, 2, 4))
    optimizer = RowwiseAdamW({"shared": RowGroup({"s": shared}, 0.1, 9), "task": RowGroup({"t": own}, 0.2, 9)})
    shared.grad, own.grad = torch.full_like(shared, 30.0), torch.full_like(own, 0.01)
    reports = optimizer.step({"shared": torch.tensor([True]), "task": torch.tensor([False, True])})
    assert reports["shared"].grad_norm_K.item() == pytest.approx(60) and reports[
        "task"
    ].grad_norm_K.tolist() == pytest.approx([0.02, 0.02])
    assert shared.grad is None and own.grad is None
    assert optimizer.groups["shared"].steps_K.tolist() == [1] and optimizer.groups["task"].steps_K.tolist() == [0, 1]
    # the small gradient was not scaled by the large one's clip: its first moment is a tenth of it
    torch.testing.assert_close(
        optimizer.groups["task"].moments["t"][0][1], torch.full((4,), 0.001, dtype=torch.float64)
    )
    torch.testing.assert_close(
        optimizer.groups["shared"].moments["s"][0][0], torch.full((4,), 0.05, dtype=torch.float64)
    )


def test_no_gradient_at_all_moves_nothing_on_the_first_step() -> None:
    u = nn.Parameter(draw(0, 2, 4))
    optimizer = RowwiseAdamW({"g": RowGroup({"u": u}, 0.1, 9)})
    optimizer.step({"g": torch.tensor([True, False])})
    assert torch.equal(u, draw(0, 2, 4))


def test_fp32_parameters_keep_fp32_moments() -> None:
    u = nn.Parameter(draw(0, 2, 4).float())
    group = RowGroup({"u": u}, 0.1, 9)
    one_step(RowwiseAdamW({"g": group}), {"u": draw(1, 2, 4).float()}, [True, True])
    assert u.dtype == torch.float32 and all(m.dtype == torch.float32 for m in group.moments["u"])
    # Adam's first step is the learning rate along the gradient's sign
    torch.testing.assert_close(
        u.detach(), draw(0, 2, 4).float() - 0.1 * draw(1, 2, 4).float().sign(), rtol=0, atol=1e-5
    )


def test_state_round_trip_continues_identically() -> None:
    def fresh() -> tuple[nn.Parameter, RowwiseAdamW]:
        u = nn.Parameter(draw(0, 3, 4))
        return u, RowwiseAdamW(
            {"g": RowGroup({"u": u}, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([20, 30, 40]), 3, "linear")}
        )

    def run(u: nn.Parameter, optimizer: RowwiseAdamW, steps: range) -> None:
        for s in steps:
            if s == 10:
                optimizer.groups["g"].active_K[2] = False
            one_step(optimizer, {"u": gradients(1, 3, 4)[s]}, [True, s % 2 == 0, True])

    whole, optimizer = fresh()
    run(whole, optimizer, range(25))
    first, stopped = fresh()
    run(first, stopped, range(12))
    state = stopped.state_dict()
    assert set(state) == {"g.steps_K", "g.active_K", "g.u.first", "g.u.second"}
    kept = {n: t.clone() for n, t in state.items()}
    run(first, stopped, range(12, 14))
    assert all(torch.equal(state[n], kept[n]) for n in state)  # a state is a copy, not a window
    second, resumed = fresh()
    with torch.no_grad():
        partial, again = fresh()
        run(partial, again, range(12))
        second.copy_(partial)
    resumed.load_state_dict(kept)
    run(second, resumed, range(12, 25))
    assert torch.equal(second, whole)
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), optimizer.state_dict().values(), strict=True)
    )


def test_a_foreign_state_is_refused() -> None:
    optimizer = RowwiseAdamW({"g": RowGroup({"u": nn.Parameter(draw(0, 3, 4))}, 0.1, 9)})
    other = RowwiseAdamW({"g": RowGroup({"w": nn.Parameter(draw(0, 3, 4))}, 0.1, 9)})
    with pytest.raises(KeyError, match=r"g\.u\.first.*g\.w\.first"):
        optimizer.load_state_dict(other.state_dict())
    wider = RowwiseAdamW({"g": RowGroup({"u": nn.Parameter(draw(0, 3, 5))}, 0.1, 9)})
    with pytest.raises(RuntimeError):
        optimizer.load_state_dict(wider.state_dict())


def test_a_group_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of constant, linear, cosine; got 'cosin'"):
        RowGroup({"u": nn.Parameter(draw(0, 3, 4))}, 0.1, 9, schedule="cosin")
    with pytest.raises(ValueError, match="equally many rows"):
        RowGroup({"u": nn.Parameter(draw(0, 3, 4)), "v": nn.Parameter(draw(0, 2, 4))}, 0.1, 9)


class Operators(TorchDispatchMode):
    """Counts every operator that is called inside, views too."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("present", [[True, True], [True, False]])
def test_a_step_calls_no_operator_more_for_20_parameters_than_for_2(present: list[bool]) -> None:
    def operators(n: int) -> int:
        parameters = {f"p{i}": nn.Parameter(draw(i, 2, 3, 4)) for i in range(n)}
        optimizer = RowwiseAdamW({"g": RowGroup(parameters, 0.1, 9)})
        for i, parameter in enumerate(parameters.values()):
            parameter.grad = draw(100 + i, 2, 3, 4)
        with Operators() as counted:
            optimizer.step({"g": torch.tensor(present)})
        assert not torch.equal(parameters["p1"], draw(1, 2, 3, 4))
        return counted.count

    assert operators(20) == operators(2) < 80


def plain_step(parameters, grads, moments, steps: list[int], rows: list[int], lr: float, clip: float) -> None:
    """AdamW one parameter and one row at a time, in the order of the definition."""
    norms = torch.stack([g.flatten(1).double().square().sum(1) for g in grads]).sum(0).sqrt()
    for k in rows:
        steps[k] += 1
        scale = (clip / norms[k].clamp(min=1e-12)).clamp(max=1).float()
        # a power of tensors, as in the step: that of Python may differ in the last bit
        one, two = ((1 - beta ** torch.tensor([steps[k]]).double()).float() for beta in (0.9, 0.999))
        for p, grad, (first, second) in zip(parameters, grads, moments, strict=True):
            g = grad[k] * scale
            first[k] = first[k] * 0.9 + g * (1 - 0.9)
            second[k] = second[k] * 0.999 + g.square() * (1 - 0.999)
            p[k] -= torch.tensor(lr, dtype=torch.float64).float() * (first[k] / one) / ((second[k] / two).sqrt() + 1e-8)


@pytest.mark.parametrize("numbers", [1, 100, 2**18])  # a chunk a parameter, chunks of two or three, one chunk a shape
def test_chunks_equal_the_plain_step_to_the_bit(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimizer_module.CHUNK_NUMBERS, "cpu", numbers)
    shapes = [(4, 3, 4), (4, 2, 5)] * 5  # in turn, so that a chunk's parameters are not neighbours in the group
    ours = {f"p{i}": nn.Parameter(draw(i, *shape).float()) for i, shape in enumerate(shapes)}
    group = RowGroup(ours, 0.1, 9)
    plain = [p.detach().clone() for p in ours.values()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain]
    steps, bad = [0] * 4, {2: 0, 3: 1}  # step -> the row that is not finite there
    for step, present in enumerate([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]):
        grads = [draw(50 * step + 100 + i, *shape).float() for i, shape in enumerate(shapes)]
        if step in bad:
            grads[4][bad[step], 1, 2] = math.nan
        if step == 1:
            grads[3][1] = math.nan  # of a row that is absent
        rows = [k for k in range(4) if present[k] and bad.get(step) != k]
        plain_step(plain, grads, moments, steps, rows, 0.1, 1.0)
        one_step(RowwiseAdamW({"g": group}), dict(zip(ours, grads, strict=True)), [bool(x) for x in present])
    assert group.steps_K.tolist() == steps == [4, 3, 4, 5]
    for p, q, found, wanted in zip(ours.values(), plain, group.moments.values(), moments, strict=True):
        assert torch.equal(p, q) and torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
