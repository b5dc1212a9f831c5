"""The contrastive loss NT-Xent, its variants, and a queue of negatives.

Shapes: N pairs of all processes, n of this one; embeddings of width D; K embeddings in a queue.
"""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bdfm_nnunet.frequency import at_least_single, full_precision
from bdfm_nnunet.losses.joined_batches import gather_rows, sum_over_processes

SameGroup = Literal["negative", "exclude", "positive"]
_ZERO = 1e-12  # vectors without a larger entry have no direction
_ROUNDING = 1e-8  # a variance below this share of the mean square is none


def directions(embeddings: Tensor) -> Tensor:
    """Return embeddings (..., D) scaled to length 1, in single precision at least.

    A zero vector has no direction: it stays zero (its cosine with anything is 0) and gets no gradient.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    embeddings = at_least_single(embeddings)
    largest = embeddings.detach().abs().amax(-1, keepdim=True)  # squares of very long or short ones leave the range
    empty = largest <= _ZERO
    scaled = embeddings.masked_fill(empty, 0) / largest.masked_fill(empty, 1)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp_min(1)


def standardised_columns(rows: Tensor, over: Tensor) -> Tensor:
    """Return rows less the mean of other rows, divided by their standard deviation, column by column.

    Over all views of a batch it is the last layer of SimCLR's public projector (https://github.com/google-research/
    simclr, a batch norm without offset): embeddings that all point the same way, as those of an untrained network with
    instance norm do, spread over the sphere, and get gradients of a useful size. It has no parameters and no running
    statistics. A column without spread becomes 0.

    Args:
        rows: (..., D).
        over: (N, D), the rows of the statistics.

    Example:
        >>> rows = torch.tensor([[100.0, 1.0], [101.0, 1.0], [99.0, 1.0], [100.0, 1.0]])
        >>> standardised_columns(rows, rows)
        tensor([[ 0.0000,  0.0000],
                [ 1.4141,  0.0000],
                [-1.4141,  0.0000],
                [ 0.0000,  0.0000]])
    """
    mean = over.mean(0)
    variance = (over - mean).square().mean(0)
    rounding = _ROUNDING * over.detach().square().mean(0) + _ZERO**2
    return (rows - mean) * (variance + rounding).rsqrt()


def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 0.5,
    decoupled: bool = False,
    queue: Tensor | None = None,
    groups: Tensor | None = None,
    queue_groups: Tensor | None = None,
    same_group: SameGroup = "negative",
) -> Tensor:
    """Return the contrastive loss of pairs of views, jointly over all processes.

    NT-Xent of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, equation 1): each of the 2N views is an
    anchor a with its pair p(a), and the loss is the mean over anchors of

        -s(a, p(a)) + log sum exp s(a, j) over all views j but a,

    with s = cosine / temperature. Variants: the decoupled loss (Yeh et al. 2021, https://arxiv.org/abs/2110.06848)
    leaves positives out of the sum; with several positives of an anchor the first term is their mean, as in L_out of
    Khosla et al. 2020 (https://arxiv.org/abs/2004.11362); a queue has further negatives (He et al. 2020,
    https://arxiv.org/abs/1911.05722).

    It is computed in single precision also where autocast drops to half. Where torch.distributed runs several
    processes, every one gets the loss of the joined batch; after the averaging of DistributedDataParallel the gradient
    of a parameter is that of the joined batch, whether the loss is differentiated as it is or weighed by the process's
    share of the samples, see `joined_batches`.

    Args:
        first: (n, D), one view of each sample.
        second: (n, D), the other views, in the same order.
        temperature: divisor of the cosine.
        decoupled: leave the positives out of the sum; an anchor without negatives then counts 0.
        queue: (K, D), further negatives; no gradient flows into them.
        groups: (n,) whole numbers that tell whose sample it is, such as patients; those below 0 are unknown and
            match nobody.
        queue_groups: (K,), the same for the queue; by default unknown.
        same_group: views of other samples of an anchor's group are "negative"s as any, left out ("exclude"), or
            further "positive"s.

    Returns:
        A scalar, the same on all processes.

    Raises:
        ValueError: shapes do not fit each other, the temperature is not above 0, or `same_group` needs groups.

    Example:
        >>> first, second = torch.eye(4), torch.eye(4)  # four pairs, orthogonal to one another
        >>> nt_xent(first, second)  # -2 + ln(e^2 + 6)
        tensor(0.5944)
        >>> nt_xent(first, second, decoupled=True)  # -2 + ln 6
        tensor(-0.2082)
        >>> nt_xent(first, second, groups=torch.tensor([0, 0, 1, 1]), same_group="exclude")  # -2 + ln(e^2 + 4)
        tensor(0.4327)
    """
    _check(first, second, temperature, queue, groups, queue_groups, same_group)
    with full_precision(first.device):
        mine = directions(torch.stack([first, second], 1))
        views, start = gather_rows(mine)
        columns = [views.flatten(0, 1)]
        if queue is not None:
            columns.append(directions(queue.detach().to(views)))
        scores = mine.flatten(0, 1) @ torch.cat(columns).T / temperature  # (2n, 2N + K); anchor 2i is the pair of 2i+1
        owners = _owners(groups, queue, queue_groups, first)
        positive, negative = _roles(scores, 2 * start, owners, same_group)
        return sum_over_processes(_row_losses(scores, positive, negative, decoupled).sum()) / max(2 * len(views), 1)


def _row_losses(scores: Tensor, positive: Tensor, negative: Tensor, decoupled: bool) -> Tensor:
    """Return the loss of each anchor from scores and boolean roles (anchors, columns)."""
    counted = negative if decoupled else negative | positive
    alone = ~counted.any(1, keepdim=True)
    spread = scores.masked_fill(~counted, -math.inf).masked_fill(alone, 0).logsumexp(1)
    pull = (scores * positive).sum(1) / positive.sum(1)
    return (spread - pull).masked_fill(alone.squeeze(1), 0)


def _roles(
    scores: Tensor, first_anchor: int, owners: tuple[Tensor, Tensor] | None, same_group: SameGroup
) -> tuple[Tensor, Tensor]:
    """Return which columns are positives and which are negatives of each anchor."""
    column = torch.arange(scores.shape[1], device=scores.device)
    anchor = torch.arange(scores.shape[0], device=scores.device)[:, None] + first_anchor
    itself, positive = column == anchor, column == (anchor ^ 1)
    negative = ~(itself | positive)
    if owners is None or same_group == "negative":
        return positive, negative
    of_anchors, of_columns = owners
    related = (of_anchors[:, None] == of_columns) & (of_anchors[:, None] >= 0) & ~itself
    return (positive | related if same_group == "positive" else positive), negative & ~related


def _owners(
    groups: Tensor | None, queue: Tensor | None, queue_groups: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return the groups of this process's anchors and of all columns; None where they are not known."""
    if groups is None:
        return None
    mine = groups.to(device=like.device, dtype=torch.int64)
    columns = [gather_rows(mine)[0].repeat_interleave(2)]
    if queue is not None:
        unknown = columns[0].new_full((len(queue),), -1)
        columns.append(unknown if queue_groups is None else queue_groups.to(unknown))
    return mine.repeat_interleave(2), torch.cat(columns)


def _check(
    first: Tensor,
    second: Tensor,
    temperature: float,
    queue: Tensor | None,
    groups: Tensor | None,
    queue_groups: Tensor | None,
    same_group: str,
) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"views must be two (N, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    if queue is not None and (queue.ndim != 2 or queue.shape[1] != first.shape[1]):
        raise ValueError(f"the queue must be (K, {first.shape[1]}) as the views, got {tuple(queue.shape)}")
    _check_groups("groups", groups, len(first))
    _check_groups("queue_groups", queue_groups, 0 if queue is None else len(queue))
    if same_group not in ("negative", "exclude", "positive"):
        raise ValueError(f"same_group is {same_group!r}, expected 'negative', 'exclude' or 'positive'")
    if same_group != "negative" and groups is None:
        raise ValueError(f"same_group is {same_group!r}, which needs groups: whose sample each pair is")


def _check_groups(name: str, groups: Tensor | None, count: int) -> None:
    if groups is None:
        return
    if groups.shape != (count,) or groups.is_floating_point() or groups.is_complex():
        raise ValueError(f"{name} must be {count} whole numbers, got {groups.dtype} {tuple(groups.shape)}")


def chance_level(pairs: int, *, queued: int = 0, decoupled: bool = False) -> float:
    """Return the loss of `nt_xent` where all embeddings are alike, or the pair is a guess: ln(2N - 1) without a queue.

    A training whose loss stays there has learnt nothing, or its embeddings have collapsed to one.

    Args:
        pairs: of all processes together.
        queued: embeddings in the queue.
        decoupled: of the decoupled loss, whose sum has one view less.

    Example:
        >>> chance_level(4)  # ln 7
        1.9459101490553132
        >>> nt_xent(torch.ones(4, 2), torch.ones(4, 2))
        tensor(1.9459)
    """
    others = 2 * pairs - 1 + queued - decoupled
    return math.log(others) if others > 0 else 0.0


class NegativeQueue(nn.Module):
    """The last embeddings of a training, as further negatives (He et al. 2020, https://arxiv.org/abs/1911.05722).

    They come from the weights of earlier steps, so a queue suits small batches and slow changes. It is saved in
    checkpoints. Several processes all take the embeddings of all of them, so their queues stay equal.

    Args:
        size: embeddings kept.
        width: D of an embedding.

    Attributes:
        count: embeddings taken so far, a scalar tensor; the next one's place is count modulo size.

    Example:
        >>> queue = NegativeQueue(3, 2)
        >>> queue.embeddings.shape
        torch.Size([0, 2])
        >>> queue.put(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        >>> queue.put(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), groups=torch.tensor([7, 8]))
        >>> queue.embeddings[:, 0], queue.groups
        (tensor([4., 2., 3.]), tensor([ 8, -1,  7]))
    """

    count: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue of {size} embeddings cannot be, expected 1 or more")
        self.register_buffer("kept", torch.zeros(size, width))
        self.register_buffer("owners", torch.full((size,), -1))
        self.register_buffer("count", torch.tensor(0))
        self._known_count: int | None = 0  # on the host, so that a step does not wait for the device
        self.register_load_state_dict_post_hook(lambda *_: setattr(self, "_known_count", None))

    @property
    def embeddings(self) -> Tensor:
        """The embeddings kept (K, D), in no particular order."""
        return cast(Tensor, self.kept)[: self._taken()]

    @property
    def groups(self) -> Tensor:
        """Their groups (K,), -1 where unknown."""
        return cast(Tensor, self.owners)[: self._taken()]

    @torch.no_grad()
    def put(self, embeddings: Tensor, *, groups: Tensor | None = None) -> None:
        """Take embeddings (n, D) of every process in the place of the oldest; nothing happens in evaluation mode.

        Args:
            embeddings: of this process.
            groups: (n,) whole numbers, see `nt_xent`; by default unknown.
        """
        if not self.training:
            return
        kept, owners = cast(Tensor, self.kept), cast(Tensor, self.owners)
        known = owners.new_full((len(embeddings),), -1) if groups is None else groups.to(owners)
        embeddings, known = gather_rows(embeddings.detach().to(kept))[0], gather_rows(known)[0]
        taken, count = self._taken_ever(), len(embeddings)
        newest = torch.arange(max(count - len(kept), 0), count, device=kept.device)
        places = (taken + newest) % len(kept)
        kept[places], owners[places] = embeddings[newest], known[newest]
        self.count.fill_(taken + count)
        self._known_count = taken + count

    def _taken(self) -> int:
        return min(self._taken_ever(), len(cast(Tensor, self.kept)))

    def _taken_ever(self) -> int:
        if self._known_count is None:
            self._known_count = int(self.count)
        return self._known_count
