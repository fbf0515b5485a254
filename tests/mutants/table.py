"""Every mutant there is, and what has to be broken by one at least."""

from mutants.mutant import Mutant
from mutants.reading import READING
from mutants.running import RUNNING
from mutants.sending import SENDING
from mutants.serving import SERVING

MUTANTS: list[Mutant] = [*READING, *RUNNING, *SENDING, *SERVING]

# The rules of streams (docs/explanation/reliability.md) and the promises, by their numbers.
TO_BREAK = frozenset(
    {f"rule {number}" for number in range(1, 12)}
    | {f"promise {number}" for number in range(1, 13)}
    | {"state table", "limits", "approvals", "leases", "idempotency", "key checks"}
)
