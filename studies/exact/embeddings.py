"""Lookups, dot products with biases, matrix factorization: claims 25, 27, 28, 30, 32, 35, 36."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lesson import collab_learner, load_movielens
from lesson.models import EmbeddingDotBias
from studies.exact import Found, exact
from studies.exact._figures import close, listed

COLLAB_LEARNER = "fastai 1.0.61, collab.py, collab_learner and EmbeddingDotBias"


def _ids_and_table() -> tuple[Tensor, Tensor]:
    """64 ids, with repeats, and a table of 10 rows; float32."""
    return torch.randint(10, (64,)), torch.randn(10, 5)


@exact("25a")
def a_one_hot_vector_times_a_matrix_is_a_row_of_it() -> Found:
    """For finite numbers, one-hot vectors times a matrix are rows of the matrix, bit by bit."""
    ids, table = _ids_and_table()
    return close(one_hot(ids, 10).float() @ table, table[ids], "64 rows of 5 numbers", tolerance=0)


@exact("25b")
def the_gradient_of_the_matrix_is_a_scatter_add() -> Found:
    """In both cases the gradient of the matrix is that of the rows, added up at their ids (float64)."""
    ids, table = _ids_and_table()
    product, lookup = (table.double().requires_grad_() for _ in range(2))
    weights = torch.randn(64, 5, dtype=torch.float64)
    (by_product,) = torch.autograd.grad(((one_hot(ids, 10).double() @ product) * weights).sum(), product)
    (by_lookup,) = torch.autograd.grad((lookup[ids] * weights).sum(), lookup)
    added = torch.zeros_like(lookup).index_add(0, ids, weights)
    agree = [close(grad, added, "50 gradients") for grad in (by_product, by_lookup)]
    return Found(all(one.holds for one in agree), f"product: {agree[0].figure}; lookup: {agree[1].figure}")


@exact("25c", expected=False)
def the_product_is_the_row_bit_by_bit_whatever_it_holds() -> Found:
    """A product with one-hot vectors also keeps −0.0 and infinity."""
    row = torch.tensor([[-0.0, 1.0], [float("inf"), 2.0]])
    product = one_hot(torch.tensor([0]), 2).float() @ row
    kept = bool(torch.signbit(product[0, 0])) and bool(product.isfinite().all())
    return Found(kept, f"row 0 is −0, 1 beside a row with inf; the product gives {listed(product[0].tolist())}")


@exact("27")
def multiplying_by_the_identity_looks_every_row_up() -> Found:
    """The identity times a matrix gives all rows; rows of the identity, in any order, give those rows."""
    ids, table = _ids_and_table()
    every = close(torch.eye(10) @ table, table, "all 10 rows", tolerance=0)
    chosen = close(torch.eye(10)[ids] @ table, table[ids], "64 of them", tolerance=0)
    return Found(every.holds and chosen.holds, f"{every.figure}; {chosen.figure}")


def _model(y_range: tuple[float, float] | None) -> tuple[EmbeddingDotBias, Tensor, Tensor]:
    """A model with large numbers in its tables, float64, and 64 pairs."""
    model = EmbeddingDotBias(40, 30, 20, y_range=y_range).double()
    for table in model.parameters():
        table.data.normal_()
    return model, torch.randint(30, (64,)), torch.randint(20, (64,))


def _score(model: EmbeddingDotBias, users: Tensor, items: Tensor) -> Tensor:
    u, i, user_bias, item_bias = model.parameters()
    return (u[users] * i[items]).sum(1) + user_bias[users, 0] + item_bias[items, 0]


@exact("28a")
def a_rating_is_a_dot_product_plus_a_bias_of_user_and_film() -> Found:
    """The model's score is the dot product of two rows, plus one number of the user and one of the film."""
    model, users, items = _model(None)
    return close(model(users, items), _score(model, users, items), "64 scores")


@exact("28b")
def a_sigmoid_squeezes_the_score_into_y_range() -> Found:
    """With `y_range`, the rating is low + (high − low) · sigmoid(score)."""
    model, users, items = _model((0.0, 5.5))
    ratings = model(users, items)
    agree = close(ratings, 5.5 / (1 + torch.exp(-_score(model, users, items))), "64 ratings")
    inside = bool(((ratings > 0) & (ratings < 5.5)).all())
    return Found(agree.holds and inside, f"{agree.figure}; from {ratings.min():.3g} to {ratings.max():.3g}")


LIKES, STARS = torch.tensor([2.0, 0.1]), torch.tensor([2.0, 0.1])  # a user who likes Tom Hanks, a film with him


@exact("30a")
def a_dot_product_is_large_where_both_numbers_are() -> Found:
    """Liking an actor, with a film that has the actor, gives a larger product than either alone."""
    without = torch.tensor([0.0, 0.1])
    both, no_film, no_user = (LIKES @ STARS, LIKES @ without, without @ STARS)
    return Found(bool(both > max(no_film, no_user)), f"both {both:.3g}, one alone {no_film:.3g} and {no_user:.3g}")


@exact("30b", expected=False)
def a_dot_product_is_large_only_where_both_numbers_are() -> Found:
    """A dot product is large only if both numbers are large."""
    negative = (-LIKES) @ (-STARS)
    return Found(bool(negative < LIKES @ STARS), f"both large {LIKES @ STARS:.3g}, both negative {negative:.3g}")


@exact("32")
def there_is_one_bias_a_user_and_one_a_film() -> Found:
    """Each user and each film in training has its own bias: one number."""
    data = load_movielens()
    learn = collab_learner(data, n_factors=40, quiet=True)
    for table in (learn.model.u_bias.weight, learn.model.i_bias.weight):
        table.data = torch.arange(table.numel(), dtype=table.dtype).reshape(table.shape)  # tells one from another
    users, films = learn.bias(data.users.ids, is_item=False), learn.bias(data.items.ids, is_item=True)
    own = [len(numbers.unique()) for numbers in (users, films)]
    return Found(own == [len(data.users.ids), len(data.items.ids)], f"{own[0]} users, {own[1]} films: a bias each")


@exact("35", by_construction=True, source=COLLAB_LEARNER)
def collab_learner_builds_embeddings_as_wide_as_n_factors() -> Found:
    """`collab_learner(data, n_factors=40, y_range=y_range, wd=1e-1)` makes tables 40 wide, with a column of biases."""
    learn = collab_learner(load_movielens(), n_factors=40, y_range=(0, 5.5), wd=1e-1, quiet=True)
    shapes = [tuple(table.shape) for table in learn.model.parameters()]
    return Found([width for _, width in shapes] == [40, 40, 1, 1], f"tables: {' '.join(map(str, shapes))}")


def _all_scores(y_range: tuple[float, float] | None) -> int:
    """The rank of the matrix of all ratings, of 120 users and 100 films."""
    model = EmbeddingDotBias(40, 120, 100, y_range=y_range).double()
    for table in model.parameters():
        table.data.normal_()
    users, items = torch.cartesian_prod(torch.arange(120), torch.arange(100)).T
    return int(torch.linalg.matrix_rank(model(users, items).detach().reshape(120, 100)))


@exact("36a")
def the_matrix_of_all_scores_has_rank_42() -> Found:
    """Before the sigmoid, all scores are a product of two matrices: 40 factors and two biases make a rank of 42."""
    rank = _all_scores(None)
    return Found(rank == 42, f"rank of the scores of 120 users for 100 films: {rank}")


@exact("36b", expected=False)
def the_matrix_of_all_ratings_has_rank_42() -> Found:
    """The same holds for the ratings themselves, after the sigmoid."""
    rank = _all_scores((0, 5.5))
    return Found(rank <= 42, f"rank of the ratings of 120 users for 100 films: {rank}")
