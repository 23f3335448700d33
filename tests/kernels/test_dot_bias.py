import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.nn.functional import mse_loss

from kernels import BackendError, backends, dot_bias, dot_bias_loss, embedding_dot_bias
from kernels.dot_bias import native, reference
from tests.kernels.grids import one_in
from tests.kernels.tolerance import assert_within_rounding


def problem(k=37, batch=64, n_users=30, n_items=20, dtype=torch.float32, seed=0, scale=1.0):
    """Ids with repeats, and tables."""
    g = torch.Generator().manual_seed(seed)
    users = torch.randint(n_users, (batch,), generator=g)
    items = torch.randint(n_items, (batch,), generator=g)
    shapes = ((n_users, k), (n_items, k), (n_users,), (n_items,))
    return users, items, *(torch.randn(shape, generator=g, dtype=dtype) * scale for shape in shapes)


def in_double(arguments):
    users, items, *tables = arguments
    return users, items, *(table.double() for table in tables)


def magnitude(users, items, user_weight, item_weight, user_bias, item_bias):
    return (user_weight[users] * item_weight[items]).abs().sum(1) + user_bias[users].abs() + item_bias[items].abs()


@given(k=st.integers(1, 67), batch=st.integers(1, 90), seed=st.integers(0, 2**32), scale=st.sampled_from([0.01, 1.0]))
@settings(max_examples=60, deadline=None)
def test_native_scores_are_within_rounding_of_float64(k, batch, seed, scale):
    arguments = problem(k, batch, seed=seed, scale=scale)
    exact = in_double(arguments)
    assert_within_rounding(native.forward(*arguments, None), reference.forward(*exact, None), k + 2, magnitude(*exact))


@given(k=st.integers(1, 67), batch=st.integers(1, 90), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_native_gradients_of_repeated_ids_are_within_rounding_of_float64(k, batch, seed):
    arguments = problem(k, batch, n_users=3, n_items=2, seed=seed)
    grad = torch.randn(batch, generator=torch.Generator().manual_seed(seed))
    out = native.backward(grad, *arguments, None)
    exact = reference.backward(grad.double(), *in_double(arguments), None)
    absolute = reference.backward(grad.double().abs(), *[t.abs() for t in in_double(arguments)], None)
    for mine, ref, size in zip(out, exact, absolute, strict=True):
        assert_within_rounding(mine, ref, batch + 1, size)


def test_a_kernel_that_returns_zeros_fails_at_the_lessons_initialization():
    arguments = problem(40, scale=0.01)
    exact = in_double(arguments)
    with pytest.raises(AssertionError, match="outside rounding"):
        assert_within_rounding(torch.zeros(64), reference.forward(*exact, None), 42, magnitude(*exact))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("y_range", [None, (0.0, 5.5), (-1.0, 1.0)])
@pytest.mark.parametrize("k", [1, 37, 50])
def test_gradients_are_those_of_finite_differences(backend, y_range, k):
    users, items, *tables = problem(k, batch=9, n_users=4, n_items=3, dtype=torch.float64)
    tables = [table.requires_grad_() for table in tables]
    assert torch.autograd.gradcheck(
        lambda *t: embedding_dot_bias(users, items, *t, y_range=y_range, backend=backend), tables
    )


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_the_sigmoid_reaches_the_range_and_stays_in_it(backend):
    users, items, *tables = problem(50, scale=5.0)
    scores = embedding_dot_bias(users, items, *tables, y_range=(0, 5.5), backend=backend)
    assert scores.min() < 0.1
    assert scores.max() > 5.4
    assert ((scores >= 0) & (scores <= 5.5)).all()


def test_backends_agree_through_the_sigmoid():
    arguments = problem(37)
    exact = reference.forward(*in_double(arguments), (0, 5.5))
    for backend in backends.available("cpu"):
        out = embedding_dot_bias(*arguments, y_range=(0, 5.5), backend=backend)
        assert (out.double() - exact).abs().max() < 5.5 * 40 * 2**-23


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize(("y_range", "deterministic"), one_in(3, [None, (0.0, 5.5)], [True, False]))
def test_the_losss_gradients_are_those_of_finite_differences(backend, y_range, deterministic):
    users, items, *tables = problem(2, batch=5, n_users=3, n_items=2, dtype=torch.float64)
    tables = [table.requires_grad_() for table in tables]
    ratings = torch.linspace(1, 5, 5, dtype=torch.float64)
    options = {"y_range": y_range, "deterministic": deterministic, "backend": backend}
    fast = backend == "triton"  # random directions instead of every number: the interpreter is slow
    assert torch.autograd.gradcheck(
        lambda *t: dot_bias_loss(users, items, ratings, *t, **options),
        tables,
        fast_mode=fast,
        check_undefined_grad=not fast,
    )


@pytest.mark.parametrize(("y_range", "deterministic"), one_in(3, [None, (0.0, 5.5)], [True, False]))
def test_tritons_gradients_are_those_of_finite_differences(y_range, deterministic):
    pytest.importorskip("triton")
    users, items, *tables = problem(3, batch=7, n_users=4, n_items=3, dtype=torch.float64)
    tables = [table.requires_grad_() for table in tables]
    options = {"y_range": y_range, "deterministic": deterministic, "backend": "triton"}
    assert torch.autograd.gradcheck(lambda *t: embedding_dot_bias(users, items, *t, **options), tables, fast_mode=True)


@pytest.mark.parametrize("backend", backends.available("cpu"))
def test_torch_library_finds_no_fault(backend):
    users, items, *tables = problem(7)
    arguments = (users, items, *(table.requires_grad_() for table in tables), [0.0, 5.5], True, backend)
    torch.library.opcheck(torch.ops.dotbias.embedding_dot_bias.default, arguments)


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("y_range", [None, (0.0, 5.5)])
def test_the_loss_and_its_gradients_are_mse_losss_of_the_scores(backend, y_range):
    users, items, *tables = problem(37, batch=20, n_users=4, n_items=3, dtype=torch.float64)
    tables = [table.requires_grad_() for table in tables]
    ratings = torch.linspace(1, 5, 20)  # of another dtype than the tables
    expected = mse_loss(
        embedding_dot_bias(users, items, *tables, y_range=y_range, backend="reference"), ratings.double()
    )
    loss = dot_bias_loss(users, items, ratings, *tables, y_range=y_range, backend=backend)
    torch.testing.assert_close(loss, expected)
    both = (torch.autograd.grad(3 * value, tables) for value in (loss, expected))
    for mine, ref in zip(*both, strict=True):
        torch.testing.assert_close(mine, ref)


@pytest.mark.parametrize("backend", sorted({*backends.available("cpu")} - {"native"}))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_gradients_of_one_item_add_up_in_half_precision(dtype, backend):
    n = 4096  # ones added up in bfloat16 stop at 256, in float16 at 2048
    ids, zeros = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    tables = [torch.ones(n, 1), torch.ones(1, 1), torch.zeros(n), torch.zeros(1)]
    tables = [table.to(dtype).requires_grad_() for table in tables]
    embedding_dot_bias(ids, zeros, *tables, backend=backend).sum().backward()
    assert tables[1].grad.item() == tables[3].grad.item() == n


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("op", [embedding_dot_bias, dot_bias_loss])
def test_every_backend_takes_the_choice_between_determinism_and_atomics(op, backend, monkeypatch):
    users, items, *tables = problem(5, dtype=torch.float64)
    tables = [table.requires_grad_() for table in tables]
    ratings = [torch.rand(64)] if op is dot_bias_loss else []
    taken = []
    if backend == "triton":
        from kernels.dot_bias import triton_kernels

        name = "loss_and_gradients" if op is dot_bias_loss else "backward"
        run = getattr(triton_kernels, name)

        def spy(*arguments, deterministic):
            taken.append(deterministic)
            return run(*arguments, deterministic=deterministic)

        monkeypatch.setattr(triton_kernels, name, spy)
    grads = [
        torch.autograd.grad(op(users, items, *ratings, *tables, backend=backend, deterministic=choice).sum(), tables)
        for choice in (True, False)
    ]
    assert taken == ([True, False] if backend == "triton" else [])
    for ordered, atomic in zip(*grads, strict=True):
        torch.testing.assert_close(ordered, atomic)


def test_native_loss_in_float32_is_as_near_to_float64_as_eager_pytorchs():
    users, items, *tables = problem(40, batch=90, scale=0.01)
    ratings = torch.linspace(1, 5, 90)
    exact = reference.loss_and_gradients(users, items, ratings.double(), *(t.double() for t in tables), (0.0, 5.5))
    mine = native.loss_and_gradients(users, items, ratings, *tables, (0.0, 5.5))
    theirs = reference.loss_and_gradients(users, items, ratings, *tables, (0.0, 5.5))
    alone = native.loss(users, items, ratings, *tables, (0.0, 5.5))
    for out, eager, ref in zip((alone, *mine), (theirs[0], *theirs), (exact[0], *exact), strict=True):
        assert (out - ref).norm() <= 2 * (eager - ref).norm() + 2**-24 * ref.norm()


@pytest.mark.parametrize("backend", backends.available("cpu"))
def test_torch_library_finds_no_fault_with_the_loss(backend):
    users, items, *tables = problem(7)
    learning = [table.clone().requires_grad_() for table in tables]
    ops, ratings = torch.ops.dotbias, torch.rand(64)
    torch.library.opcheck(ops.dot_bias_loss.default, (users, items, ratings, *tables, [0.0, 5.5], backend))
    arguments = (users, items, ratings, *learning, [0.0, 5.5], True, backend)
    torch.library.opcheck(ops.dot_bias_loss_and_gradients.default, arguments)


@pytest.mark.parametrize("backend", backends.available("cpu"))
def test_a_retained_graph_gives_each_backward_gradients_of_its_own(backend):
    users, items, *tables = problem(7)
    tables = [table.requires_grad_() for table in tables]
    loss = dot_bias_loss(users, items, torch.linspace(1, 5, 64), *tables, backend=backend)
    first, second, third = (torch.autograd.grad(n * loss, tables, retain_graph=True) for n in (1, 4, 1))
    for one, four, again in zip(first, second, third, strict=True):
        assert torch.equal(one, again)
        assert torch.equal(4 * one, four)


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("compiled", [False, True])
def test_no_gradient_is_computed_if_none_is_required(backend, compiled, monkeypatch):
    users, items, *tables = problem(7)
    ratings = torch.linspace(1, 5, 64)
    learning = [table.clone().requires_grad_() for table in tables]
    torch.compiler.reset()  # dot_bias_loss itself is compiled here, which has a limit of variants
    loss = torch.compile(dot_bias_loss, fullgraph=True, backend="aot_eager") if compiled else dot_bias_loss
    expected = loss(users, items, ratings, *learning, backend=backend)
    assert expected.requires_grad
    module = dot_bias._implementation(backend)
    monkeypatch.setattr(module, "loss_and_gradients", None)
    with torch.no_grad():
        torch.testing.assert_close(loss(users, items, ratings, *learning, backend=backend), expected)
    torch.testing.assert_close(loss(users, items, ratings, *tables, backend=backend), expected)


@pytest.mark.parametrize("backend", backends.available("cpu"))
def test_second_derivatives_are_refused_rather_than_left_out(backend):
    users, items, *tables = problem(7)
    tables = [table.requires_grad_() for table in tables]
    loss = dot_bias_loss(users, items, torch.rand(64), *tables, backend=backend)
    with pytest.raises(RuntimeError, match="no second derivatives: leave out create_graph"):
        torch.autograd.grad(loss, tables, create_graph=True)


@pytest.mark.parametrize("backend", backends.available("cpu"))
def test_second_derivatives_of_scores_are_refused(backend):
    users, items, *tables = problem(7)
    tables = [table.requires_grad_() for table in tables]
    scores = embedding_dot_bias(users, items, *tables, backend=backend)
    grads = torch.autograd.grad(scores.sum(), tables, create_graph=True)
    with pytest.raises(RuntimeError, match="embedding_dot_bias has no second derivatives: leave out create_graph"):
        grads[0].sum().backward()


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("deterministic", [True, False])
def test_without_factors_the_biases_remain(backend, deterministic):
    users, items, *tables = problem(0, batch=5)
    tables = [table.requires_grad_() for table in tables]
    how = {"backend": backend, "deterministic": deterministic}
    torch.testing.assert_close(embedding_dot_bias(users, items, *tables, **how), tables[2][users] + tables[3][items])
    ratings = torch.linspace(1, 5, 5)
    grads = torch.autograd.grad(2 * dot_bias_loss(users, items, ratings, *tables, **how), tables)
    loss = 2 * mse_loss(tables[2][users] + tables[3][items], ratings)
    for mine, torchs in zip(grads[2:], torch.autograd.grad(loss, tables[2:]), strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("op", [embedding_dot_bias, dot_bias_loss])
@pytest.mark.parametrize("place", range(4))
def test_a_tangent_is_refused_rather_than_left_out(op, place):
    users, items, *tables = problem(7)
    ratings = [torch.rand(64)] if op is dot_bias_loss else []
    with forward_ad.dual_level():
        tables[place] = forward_ad.make_dual(tables[place], torch.ones_like(tables[place]))
        with pytest.raises(NotImplementedError, match="has a tangent, and this op no forward-mode derivative"):
            op(users, items, *ratings, *tables)


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("op", [embedding_dot_bias, dot_bias_loss])
def test_gradients_of_transposed_tables_are_contiguous_as_the_compiler_is_told(op, backend):
    users, items, *tables = problem(7)
    ratings = [torch.rand(64)] if op is dot_bias_loss else []
    tables = [table.t().contiguous().t().requires_grad_() for table in tables]
    grads = torch.autograd.grad(op(users, items, *ratings, *tables, backend=backend).sum(), tables)
    assert all(grad.is_contiguous() for grad in grads)


@pytest.mark.parametrize("backend", sorted({*backends.available("cpu")} - {"native"}))
def test_a_loss_scale_saves_gradients_that_would_vanish_in_float16(backend):
    users, items, *tables = problem(7, batch=256, n_users=200, dtype=torch.float16, scale=0.01)
    ratings = torch.full((256,), 0.01)
    tables = [table.requires_grad_() for table in tables]
    loss = dot_bias_loss(users, items, ratings, *tables, backend=backend)
    scaled, *_ = torch.autograd.grad(2.0**16 * loss, tables)
    double = [table.detach().double().requires_grad_() for table in tables]
    exact = dot_bias_loss(users, items, ratings, *double, backend="reference")
    expected, *_ = torch.autograd.grad(exact, double)
    torch.testing.assert_close(scaled.double() / 2**16, expected, rtol=2e-3, atol=1e-9)
    assert (expected.half().double() - expected).norm() > 0.005 * expected.norm()


def test_the_loss_in_half_precision_is_summed_in_float32():
    users, items, *tables = problem(dtype=torch.bfloat16)
    tables = [table.requires_grad_() for table in tables]
    loss = dot_bias_loss(users, items, torch.rand(64), *tables)
    loss.backward()
    assert loss.dtype == torch.float32
    assert {table.grad.dtype for table in tables} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("ratings", "complaint"),
    [
        (torch.rand(3), r"not torch\.float32\[3\]"),
        (torch.ones(64).long(), "not torch.int64"),
        (torch.rand(64, requires_grad=True), "require a gradient"),
    ],
)
def test_ratings_that_do_not_fit_are_named(ratings, complaint):
    users, items, *tables = problem()
    with pytest.raises(ValueError, match=complaint):
        dot_bias_loss(users, items, ratings, *tables)


@pytest.mark.parametrize("backend", backends.available("cpu"))
@pytest.mark.parametrize("op", [embedding_dot_bias, dot_bias_loss])
def test_it_compiles_as_one_graph(op, backend):
    users, items, *tables = problem(37)
    tables = [table.requires_grad_() for table in tables]
    ratings = [torch.rand(64)] if op is dot_bias_loss else []

    def total(*tables):
        return op(users, items, *ratings, *tables, y_range=(0, 5.5), backend=backend).square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(function(*tables), tables) for function in (compiled, total)]
    for out, expected in zip(*grads, strict=True):
        assert torch.equal(out, expected)


def test_an_empty_batch_has_empty_scores_and_zero_gradients():
    users, items, *tables = problem(5, batch=0)
    for backend in ("reference", "native"):
        tables = [table.detach().requires_grad_() for table in tables]
        scores = embedding_dot_bias(users, items, *tables, backend=backend)
        scores.sum().backward()
        assert scores.shape == (0,)
        assert all((table.grad == 0).all() for table in tables)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("wrong", [-1, 30])
def test_an_id_outside_its_table_is_named(backend, wrong):
    users, items, *tables = problem()
    users[5] = wrong
    with pytest.raises(IndexError, match=f"users holds id {wrong}, but the table's rows go from 0 to 29"):
        embedding_dot_bias(users, items, *tables, backend=backend)


def test_a_nan_in_a_table_shows_in_the_score():
    users, items, *tables = problem()
    tables[0][users[3]] = float("nan")
    assert embedding_dot_bias(users, items, *tables, y_range=(0, 5.5), backend="native")[3].isnan()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: [a[0].int(), *a[1:]], "users must be int64"),
        (lambda a: [a[0][:3], *a[1:]], "differ in length: 3 and 64"),
        (lambda a: [*a[:3], a[3][:, :5], *a[4:]], "users have 37 factors and items 5"),
        (lambda a: [*a[:4], a[4][:, None], a[5]], r"user_bias \[n\]"),
        (lambda a: [*a[:5], a[5].double()], "item_bias is torch.float64"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        embedding_dot_bias(*change(list(problem())))


@pytest.mark.parametrize("y_range", [(5, 5), (0, float("inf")), (float("-inf"), 0), (0, float("nan")), (0, 1, 2), ()])
def test_bad_ranges_are_refused(y_range):
    users, items, *tables = problem()
    with pytest.raises(ValueError, match="two finite numbers are needed"):
        embedding_dot_bias(users, items, *tables, y_range=y_range)
    with pytest.raises(ValueError, match="two finite numbers are needed"):
        dot_bias_loss(users, items, torch.ones(len(users)), *tables, y_range=y_range)


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(BackendError, match=r"float32 and float64, not in torch\.bfloat16"):
        embedding_dot_bias(*problem(dtype=torch.bfloat16), backend="native")
    with pytest.raises(BackendError, match="there are reference, native, triton"):
        embedding_dot_bias(*problem(), backend="cuda")


def test_the_default_for_bfloat16_on_a_cpu_is_the_reference():
    arguments = problem(dtype=torch.bfloat16)
    expected = embedding_dot_bias(*arguments, backend="reference")
    assert torch.equal(embedding_dot_bias(*arguments), expected)
