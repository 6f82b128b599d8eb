"""One training step: G, path length, D, R1, averaged weights, adaptive augmentation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.config import TrainConfig
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.errors import UserError
from stylegan2_msp.networks.precision import use_channels_last
from stylegan2_msp.seeds import SETTLED, Settled
from stylegan2_msp.training.checkpoint import TrainState
from stylegan2_msp.training.consistency import Consistency, ask
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.diversity import real_diversity
from stylegan2_msp.training.ema import Average, ema_beta
from stylegan2_msp.training.graphs import PhaseGraphs
from stylegan2_msp.training.initial import initial_state
from stylegan2_msp.training.labels import LabelDraws
from stylegan2_msp.training.losses import Objective
from stylegan2_msp.training.sharpness import rank_reals
from stylegan2_msp.training.witness import make_witness, recall_witness


class UnreadableReals(Exception):
    """Some process cannot read an image that the step asks for; ``mine`` says which where it is this one."""

    def __init__(self, mine: UserError | None) -> None:
        super().__init__(str(mine))
        self.mine = mine


class Trainer:
    """Holds the state of a run and advances it by one batch at a time.

    Args:
        config: the resolved run.
        data: all samples (each process holds them).
        num_classes: K.
        classifier: the frozen classifier, for the consistency terms.
        world: this process's place among those that share the batch.
        nhwc: half precision in channels_last memory on a GPU.
        graphs: a process that trains alone replays its phases (see `PhaseGraphs`).
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingSet,
        num_classes: int,
        classifier: FrozenClassifier | None,
        world: World,
        nhwc: bool = True,
        graphs: bool = True,
    ) -> None:
        self.config = config
        self.data = data
        self.num_classes = num_classes
        self.world = world
        self.state = state = initial_state(config, data, num_classes, world)
        if nhwc:
            for network in (state.G, state.D, state.G_ema):
                use_channels_last(network)
        self.average = Average(state.G_ema, state.G)
        recorded = graphs and (world.size == 1 or world.device.type == "cpu")  # between GPUs it has not been tried
        self.graphs = PhaseGraphs(world.device, state.rng.generator, recorded)
        self.labels = LabelDraws(data.labels, num_classes, state.order, state.rng, config.label_noise, config.vicinal)
        self.ranks = rank_reals(data, num_classes) if config.sharpness else None
        diversity = real_diversity(data, num_classes, config.diversity) if config.diversity > 0 else None
        state.reached = None if diversity is None else diversity.reached
        self.objective = Objective(
            state.G,
            state.D,
            state.pipe,
            state.rng,
            _consistency(config, data, classifier, state),
            diversity,
            style_mixing=config.style_mixing,
            settled=SETTLED if config.sharpness or config.consistency_class or config.consistency_witness else 0,
            mean=world.mean,
        )
        self.rounds = config.batch // world.size // config.batch_gpu
        self._drawn: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = deque()

    def call_witness(self) -> None:
        """Takes the state's witness, or makes one for all processes, where a run of this length asks one at all.

        None is asked where z has no number for it, as of networks of before with two.
        """
        config, state = self.config, self.state
        weight = config.consistency_witness
        if weight == 0 or self.objective.consistency is None or config.kimg <= config.consistency_kimg:
            return
        if state.G.z_dim < SETTLED:
            return
        if state.witness is None:
            made = make_witness(self.data, self.num_classes) if self.world.rank == 0 else None
            state.witness = self.world.gather(made)[0]
        if state.witness is not None:
            self.objective.witness = recall_witness(state.witness, self.data, weight)

    def step(self) -> None:
        """Trains on one batch.

        Raises:
            UnreadableReals: some process cannot read its images; nothing has changed.
        """
        config, state = self.config, self.state
        self._draw_reals()
        self.generator_phase()
        if config.pl_weight > 0 and state.step % config.pl_interval == 0:
            self.path_length_phase()
        self.discriminator_phase()
        if config.gamma > 0 and state.step % config.r1_interval == 0:
            self.r1_phase()
        self.average.update(ema_beta(state.nimg, config.batch, config.ema_kimg, config.ema_rampup))
        state.nimg += config.batch
        state.step += 1
        if state.ada is not None and state.step % config.ada_interval == 0:
            state.ada.update()

    def generator_phase(self) -> None:
        """Gradients and update of G."""
        config = self.config
        strength = consistency_strength(self.state.nimg, config.consistency_kimg, config.consistency_ramp)
        inputs = [torch.full((), strength, device=self.world.device)] if strength > 0 else []
        self._run("G", self._train_generator, inputs)

    def path_length_phase(self) -> None:
        """Gradients and update of G for path length regularisation."""
        self._run("path length", self._regularise_generator)

    def discriminator_phase(self) -> None:
        """Gradients and update of D."""
        self._run("D", self._train_discriminator, self._reals())

    def r1_phase(self) -> None:
        """Gradients and update of D for the R1 penalty."""
        self._run("R1", self._regularise_discriminator, self._reals())

    def _run(self, name: str, work: Callable[..., None], inputs: Sequence[torch.Tensor] = ()) -> None:
        if self.state.pipe is not None and self.state.pipe.idle:
            name += " without augmentation"
        self.graphs.run(name, work, *inputs, undo=self._forget_gradients)

    def _train_generator(self, *strength: torch.Tensor) -> None:
        config, state = self.config, self.state
        state.D.requires_grad_(False)
        for _ in range(self.rounds):
            losses = self.objective.generator(*self._latents(twins=config.diversity > 0), *strength)
            self._backward(sum(losses.values(), torch.zeros((), device=self.world.device)))
            self._note(losses)
        state.D.requires_grad_(True)
        self._update(state.opt_G)

    def _regularise_generator(self) -> None:
        config, state = self.config, self.state
        for _ in range(self.rounds):
            z, c, _ = self._latents()
            half = max(config.batch_gpu // 2, 1)  # half a batch is enough (Karras et al. 2020a, appendix B)
            penalty, mean = self.objective.path_length(z[:half], c[:half], state.pl_mean)
            state.pl_mean.copy_(mean)
            self._backward(penalty * config.pl_weight * config.pl_interval)
            self._note({"pl_penalty": penalty})
        self._update(state.opt_G)

    def _train_discriminator(self, *reals: torch.Tensor) -> None:
        for real, told in self._shown(reals):
            losses = self.objective.discriminator(real, told, *self._latents())
            signs = losses.pop("signs")
            self._backward(losses["D_fake"] + losses["D_real"])
            self._note({"D": losses["D_fake"] + losses["D_real"], "signs": signs})
            self._observe(signs)
        self._update(self.state.opt_D)

    def _regularise_discriminator(self, *reals: torch.Tensor) -> None:
        config = self.config
        for real, told in self._shown(reals):
            penalty, signs = self.objective.r1(real, told)
            self._backward(penalty * (config.gamma / 2 * config.r1_interval))
            self._note({"r1_penalty": penalty})
            self._observe(signs)
        self._update(self.state.opt_D)

    def _latents(self, twins: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z of one round of fakes, their labels (those of random real samples) and the labels that D is told.

        With ``twins`` two fakes each share a label.
        """
        n = self.config.batch_gpu
        z = self.state.rng.randn(n, self.state.G.z_dim)
        c, told = self.labels.fakes(n, twins)
        if self.ranks is not None:
            told = torch.cat([told, Settled(z).sharpness[:, None]], dim=1)
        return z, c, told

    def _reals(self) -> list[torch.Tensor]:
        """The reals of a phase, on the device: of each round what `_shown` makes images of."""
        found: list[torch.Tensor] = []
        for _ in range(self.rounds):
            index, told, flip = self._drawn.popleft() if self._drawn else self._draw()
            found += [self.data.stored(index), told, self.labels.of(index), *([] if flip is None else [flip])]
        return found

    def _shown(self, reals: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each round the images and the labels that D is told."""
        each = len(reals) // self.rounds
        for first in range(0, len(reals), each):
            stored, told, c, *flip = reals[first : first + each]
            real = self.data.shown(stored, *flip)
            if self.ranks is not None:
                told = torch.cat([told, self.ranks(real, c)[:, None]], dim=1)
            yield real, told

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Indices of one round of reals, the labels that D is told, and which of them are flipped."""
        n = self.config.batch_gpu
        return *self.labels.reals(n), self.state.rng.rand(n) < 0.5 if self.data.mirror else None

    def _draw_reals(self) -> None:
        """Draws all reals of a step and, where they are decoded only when wanted, waits for them before any training.

        So a run that must stop for an image that cannot be read stops between two steps, and loses nothing.
        """
        state, order, rng = self.state, self.state.order, self.state.rng
        before = (order.state_dict(), rng.state_dict()) if self.data.lazy else None
        self._drawn = deque(self._draw() for _ in range(self._calls(state.step)))
        if before is None:
            return
        known = 0 if self.labels.vicinity is not None else self._calls(state.step + 1)
        later = order.upcoming(self.config.batch_gpu, known, rng)
        error = self.data.expect([index for index, *_ in self._drawn], later)
        if self.world.any(error is not None):
            order.load_state_dict(before[0])
            rng.load_state_dict(before[1])
            self._drawn.clear()
            raise UnreadableReals(error)

    def _calls(self, step: int) -> int:
        """How many rounds of reals a step takes."""
        config = self.config
        return self.rounds * (2 if config.gamma > 0 and step % config.r1_interval == 0 else 1)

    def _backward(self, loss: torch.Tensor) -> None:
        (loss / self.rounds).backward()

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.world.average_gradients(parameters)
        for grad in (p.grad for p in parameters if p.grad is not None):
            torch.nan_to_num(grad, nan=0.0, posinf=1e5, neginf=-1e5, out=grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _forget_gradients(self) -> None:
        self.state.D.requires_grad_(True)
        self.state.opt_G.zero_grad(set_to_none=True)
        self.state.opt_D.zero_grad(set_to_none=True)

    def _observe(self, signs: torch.Tensor) -> None:
        if self.state.ada is not None:
            self.state.ada.observe(self.world.mean(signs))

    def _note(self, values: dict[str, torch.Tensor]) -> None:
        """Adds to the tick's statistics without waiting for the device."""
        sums = self.state.sums
        for name, value in values.items():
            if name not in sums:
                sums[name] = torch.zeros(2, device=value.device)
            sums[name].add_(torch.stack([value.detach().float(), torch.ones((), device=value.device)]))

    def pop_statistics(self) -> dict[str, float]:
        """Means over processes and over the batches since the last call."""
        means = {name: self.world.mean(pair).tolist() for name, pair in sorted(self.state.sums.items())}
        for pair in self.state.sums.values():
            pair.zero_()
        return {name: total / count for name, (total, count) in means.items() if count}

    def merge_buffers(self) -> None:
        """Brings buffers that each process tracked on its own share (w_avg) to their common mean."""
        if self.world.size == 1:
            return
        for module in (self.state.G, self.state.G_ema):
            for name, buffer in module.named_buffers():
                if name.endswith("w_avg"):
                    buffer.copy_(self.world.mean(buffer))


def consistency_strength(nimg: int, start_kimg: float, ramp_kimg: float) -> float:
    """Factor in [0, 1] of the consistency terms: 0 before the start, then rising linearly during the ramp."""
    since = nimg / 1000 - start_kimg
    if since < 0:
        return 0.0
    return min(since / ramp_kimg, 1.0) if ramp_kimg > 0 else 1.0


def _consistency(
    config: TrainConfig, data: TrainingSet, classifier: FrozenClassifier | None, state: TrainState
) -> Consistency | None:
    """What asks the classifier, or None where no term has a weight."""
    weights = (config.consistency, config.consistency_uniform, config.consistency_class)
    if classifier is None or not any((*weights, config.consistency_witness)):
        return None
    weight, uniform, class_weight = weights
    share, augment = config.consistency_share, config.consistency_augment
    return ask(classifier, data.labels, data.named_right, state.rng, weight, uniform, share, class_weight, augment)
