"""Solvers called without cvxpy on a form of the instances, for `python -m benchmarks.batched`; see peers.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import clarabel
import numpy as np
import torch

from convexblocks.solvers.single_programs import clarabel_cones

from .batched_forms import Form, Instances, Trial

ITERATIONS = 200_000
Answers = tuple[np.ndarray, np.ndarray]


def interior_settings(tolerance: float) -> dict[str, float]:
    """What Clarabel and the solvers named after it call their tolerances."""
    return {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}


def point_of(answer: Any) -> Answers:
    """Primal and dual point of a raw answer of Clarabel, OSQP or SCS."""
    if isinstance(answer, Mapping):
        return np.array(answer["x"]), np.array(answer["y"])
    return np.array(answer.x), np.array(answer.z if hasattr(answer, "z") else answer.y)


def _stacked(points: list[Answers]) -> Answers:
    return np.array([x for x, _ in points]), np.array([y for _, y in points])


def raw_clarabel(form: str) -> Callable[[Instances, float], Trial]:
    """Clarabel without cvxpy, one solver whose data are updated."""

    def prepare(instances: Instances, tolerance: float) -> Trial:
        chosen: Form = getattr(instances, form)
        settings = clarabel.DefaultSettings()
        settings.verbose, settings.presolve_enable, settings.max_threads = False, False, 1
        for name, value in interior_settings(tolerance).items():
            setattr(settings, name, value)
        cones = clarabel_cones(chosen.cones)
        upper = chosen.P.upper()
        solver = clarabel.DefaultSolver(upper.of(0), chosen.q[0], chosen.A.of(0), chosen.b[0], cones, settings)
        parts = [(name, part) for name, part in (("P", upper), ("A", chosen.A)) if not part.shared]
        own = [{name: part.of(place).data for name, part in parts} for place in range(chosen.batch)]

        def run() -> Answers:
            found = []
            for place in range(chosen.batch):
                solver.update(q=chosen.q[place], b=chosen.b[place], **own[place])
                found.append(point_of(solver.solve()))
            return _stacked(found)

        return Trial(run, lambda found: chosen.measure(*found))

    return prepare


def raw_osqp(*, polished: bool) -> Callable[[Instances, float], Trial]:
    """OSQP on the reduced form, updated; starts from the answer to the instance before, or to the same one earlier."""

    def prepare(instances: Instances, tolerance: float) -> Trial:
        import osqp

        form = instances.reduced
        past = None if instances.before is None else prepare(instances.before, tolerance).run()
        upper = form.P.upper()
        parts = [(name, part) for name, part in (("Px", upper), ("Ax", form.A)) if not part.shared]
        own = [{name: part.of(place).data for name, part in parts} for place in range(form.batch)]
        solver = osqp.OSQP()
        solver.setup(upper.of(0), form.q[0], form.A.of(0), _lower(form, 0), form.b[0], eps_abs=tolerance,
                     eps_rel=tolerance, max_iter=ITERATIONS, polishing=polished, verbose=False)  # fmt: skip

        def run() -> Answers:
            found = []
            for place in range(form.batch):
                equal = {"l": _lower(form, place)} if form.cones.zero else {}
                solver.update(q=form.q[place], u=form.b[place], **equal, **own[place])
                if past is not None:
                    solver.warm_start(x=past[0][place], y=past[1][place])
                found.append(point_of(solver.solve()))
            return _stacked(found)

        return Trial(run, lambda found: form.measure(*found))

    return prepare


def _lower(form: Form, place: int) -> np.ndarray:
    return np.r_[form.b[place][: form.cones.zero], np.full(form.cones.nonnegative, -np.inf)]


def moreau_batch(form: str, solver: str = "ipm") -> Callable[[Instances, float], Trial]:
    """Moreau's compiled solver on a batch; the matrices are set in the timed run only where they vary."""

    def prepare(instances: Instances, tolerance: float) -> Trial:
        import moreau

        chosen: Form = getattr(instances, form)
        P, A = chosen.P.by_rows(), chosen.A.by_rows()
        places = [pointers for part in (P, A) for pointers in (part.row_pointers, part.columns)]
        cones = moreau.Cones(num_zero_cones=chosen.cones.zero, num_nonneg_cones=chosen.cones.nonnegative,
                             so_cone_dims=list(chosen.cones.second_order), psd_dims=list(chosen.cones.semidefinite),
                             num_exp_cones=chosen.cones.exponential)  # fmt: skip
        own = (moreau.IPMSettings(**interior_settings(tolerance)) if solver == "ipm"
               else moreau.ActiveSetSettings(primal_tol=tolerance))  # fmt: skip
        settings = moreau.Settings(device="cpu", solver=solver, batch_size=chosen.batch, **{f"{solver}_settings": own})
        made = moreau.CompiledSolver(*reversed(A.shape), *places, cones, settings)
        matrices = [part.values if chosen.shared else part.for_each(chosen.batch) for part in (P, A)]
        made.setup(*matrices)
        past = None
        if instances.before is not None:
            earlier: Form = getattr(instances.before, form)
            past = made.solve(earlier.q, earlier.b).to_warm_start()

        def run() -> Any:
            if not chosen.shared:
                made.setup(*matrices)
            return made.solve(chosen.q, chosen.b, warm_start=past)

        return Trial(run, lambda found: chosen.measure(np.array(found.x), np.array(found.z)))

    return prepare


def proxsuite_batch(instances: Instances, tolerance: float) -> Trial:
    """proxsuite's BatchQP, one thread; vectors are updated, matrices that vary are set up anew."""
    import proxsuite

    dense = proxsuite.proxqp.dense
    form, batch = instances.reduced, dense.BatchQP(instances.reduced.batch)
    rows, size = form.A.shape
    matrices = [(form.P.dense(place), form.A.dense(place)) for place in range(form.batch)]
    for place, (P, A) in enumerate(matrices):
        program = batch.init_qp_in_place(size, 0, rows)
        program.settings.eps_abs, program.settings.eps_rel, program.settings.max_iter = tolerance, tolerance, ITERATIONS
        program.init(P, form.q[place], None, None, A, np.full(rows, -1e20), form.b[place])

    def run() -> Answers:
        for place, (P, A) in enumerate(matrices):
            own = {} if form.shared else {"H": P, "C": A}
            batch.get(place).update(g=form.q[place], u=form.b[place], **own)
        dense.solve_in_parallel(batch, 1)
        results = [batch.get(place).results for place in range(form.batch)]
        return np.array([found.x for found in results]), np.array([found.z for found in results])

    return Trial(run, lambda found: form.measure(*found))


class Bounds:
    """Rows with one entry as bounds of a variable, and the others, for solvers that take them apart."""

    def __init__(self, form: Form) -> None:
        self.form = form
        alone = np.bincount(form.A.rows, minlength=form.A.shape[0]) == 1
        if form.cones.zero:
            raise NotImplementedError("equalities are left in the reduced form.")
        self.others = np.flatnonzero(~alone)
        entries = np.flatnonzero(alone[form.A.rows])
        self.rows, self.columns = form.A.rows[entries], form.A.columns[entries]
        self.coefficients = form.A.values[..., entries]
        self.above = np.atleast_2d(self.coefficients)[0] > 0

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of all variables of all instances."""
        lower, upper = (np.full(self.form.q.shape, sign * 1e30) for sign in (-1, 1))
        values = self.form.b[:, self.rows] / self.coefficients
        upper[:, self.columns[self.above]] = values[:, self.above]
        lower[:, self.columns[~self.above]] = values[:, ~self.above]
        return lower, upper

    def duals(self, others: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Duals of the rows from those of the other rows and of the bounds."""
        y = np.zeros(self.form.b.shape)
        y[:, self.others] = others
        y[:, self.rows] = np.where(self.above, upper[:, self.columns], lower[:, self.columns])
        y[:, self.rows] /= np.abs(self.coefficients)
        return y


def piqp_loop(instances: Instances, tolerance: float) -> Trial:
    """piqp's dense solver, updated; bounds are given as bounds."""
    import piqp

    form = instances.reduced
    bounds, solver = Bounds(form), piqp.DenseSolver()
    for name in ("eps_abs", "eps_rel", "eps_duality_gap_abs", "eps_duality_gap_rel"):
        setattr(solver.settings, name, tolerance)
    lower, upper = bounds.limits()
    wide = [np.asfortranarray(form.A.dense(place)[bounds.others]) for place in range(form.batch)]
    matrices = [(form.P.dense(place), G) for place, G in enumerate(wide)]
    sides = form.b[:, bounds.others]
    solver.setup(matrices[0][0], form.q[0], None, None, matrices[0][1], None, sides[0], lower[0], upper[0])

    def run() -> tuple[np.ndarray, ...]:
        found = []
        for place, (P, G) in enumerate(matrices):
            own = {} if form.shared else {"P": P, "G": G}
            solver.update(c=form.q[place], h_u=sides[place], x_l=lower[place], x_u=upper[place], **own)
            solver.solve()
            result = solver.result
            found.append([np.array(part) for part in (result.x, result.z_u, result.z_bl, result.z_bu)])
        return tuple(np.array(part) for part in zip(*found, strict=True))

    return Trial(run, lambda found: form.measure(found[0], bounds.duals(*found[1:])))


def qpth_batch(instances: Instances, tolerance: float) -> Trial:
    """qpth's batched interior-point method; a Hessian that is not definite gets 1e-8 on its diagonal."""
    from qpth.qp import QPFunction

    form = instances.reduced
    solve = QPFunction(eps=tolerance, verbose=-1, maxIter=50, check_Q_spd=False)
    P, A = (torch.as_tensor(part.dense(0) if part.shared else np.array([part.dense(i) for i in range(form.batch)]))
            for part in (form.P, form.A))  # fmt: skip
    if float(torch.linalg.eigvalsh(P).min()) <= 0:
        P = P + 1e-8 * torch.eye(P.shape[-1])
    none = torch.empty(0, dtype=torch.float64)
    q, b = torch.as_tensor(form.q).requires_grad_(), torch.as_tensor(form.b)

    def run() -> Answers:
        x = solve(P, q, A, b, none, none)
        return x.detach().numpy(), x.grad_fn.lams.numpy()

    return Trial(run, lambda found: form.measure(*found))
