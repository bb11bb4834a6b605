"""
Refill of a PCP from the zone: own fragments, whole blocks, chunks, single runs (rfc.md section 5, B-63).

The PCP's lock is held; the zone lock is taken here, once for all phases or once for each.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from .. import names
from .fallback import NORMAL
from .memory import NOBODY, NR_FREE, NR_FREE_CMA, PB
from .remote import Remote


class Refill(Remote):
    """The four phases of P-32. Each returns the pages it got in runs of at least the order asked for."""

    def refill(self, cpu: int, entries: int, order: int, mt: int, aflags: int) -> None:
        """P-32: ``entries`` << order pages. A phase runs only if some are missing."""
        missing = wanted = entries << order
        locked = False
        for number, phase in enumerate((self._recover, self._claim_blocks, self._take_chunks, self._take_runs)):
            if missing <= 0 or not self._has_work(number, cpu, order, missing < wanted):
                continue
            if not locked or self.policy.refill_hold == "per_phase":
                if aflags & names.ALLOC_NOLOCK and not self.trylock():
                    return
                self.count(holds_refill=1, refills=int(not locked))
                locked = True
            missing -= phase(cpu, missing, order, mt, aflags)

    def _has_work(self, phase: int, cpu: int, order: int, got_some: bool) -> bool:
        """Whether a phase has something to try, as far as the PCP, the policy and the zone's flags can tell."""
        if self.pcps[cpu].high < self.pcps[cpu].batch:  # the PCP is disabled: one entry
            return phase == 3
        return (
            self.policy.phase0 == "on" and order < PB and not self.ownership_rests(),
            self._gate_open(cpu),
            self.policy.phase2 == "on" and order < PB,
            self.policy.phase3 == "rest" or not got_some,
        )[phase]

    def _cma_too(self, mt: int, aflags: int) -> bool:
        """Whether phases 0 and 2 serve this request from C blocks too (P-33, P-36)."""
        return self.policy.cma != "as-posted" and mt == names.MOVABLE and bool(aflags & names.ALLOC_CMA)

    def _recover(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 0, P-33: take back what own blocks have in the zone; those of another type stay linked."""
        got = 0
        cma = self._cma_too(mt, aflags)
        self.count(walks=1)
        blocks = self._balance(cpu) if cma and self.policy.cma in ("balanced", "rule") else self._walk(cpu, mt, cma)
        while got < missing and not self._capped(cpu):
            index = next(blocks, None)
            if index is None:
                break
            got += self._recover_block(cpu, index, order, mt)
        return got

    def _capped(self, cpu: int) -> bool:  # phase0_cap=high
        return self.policy.phase0_cap == "high" and self.pcps[cpu].count >= self.pcps[cpu].high

    def _walk(self, cpu: int, mt: int, cma: bool) -> Iterator[int]:
        """Linked blocks of the type, and of C, as they are linked; of lists by type (P-15) one after the other."""
        types = (mt, names.CMA) if cma else (mt,)
        lists = self.pcps[cpu].owned
        if len(lists) > 1:
            lists = [lists[block_type] for block_type in types]
        for index in list(chain(*lists)):
            self.count(walked_blocks=1)
            if self.blocks[index].type in types:
                yield index
            else:
                self.count(skipped_blocks=1)

    def _balance(self, cpu: int) -> Iterator[int]:
        """P-81: the 50 % rule says for each block anew whether C or M comes first."""
        while (index := self._first_of(cpu, *self._by_half(names.MOVABLE))) is not None:
            yield index

    def _by_half(self, mt: int) -> tuple[int, int]:
        """The type and C, the one that the 50 % rule prefers now first."""
        return (names.CMA, mt) if self.prefer_cma() else (mt, names.CMA)

    def _first_of(self, cpu: int, preferred: int, other: int) -> int | None:
        """The first linked block of the preferred type, or if there is none of the other."""
        lists = self.pcps[cpu].owned
        if len(lists) > 1:
            index = next(chain(lists[preferred], lists[other]), None)
            self.count(walked_blocks=int(index is not None))
            return index
        found: dict[int, int] = {}
        looked_at = 0
        for index in lists[0]:
            looked_at += 1
            found.setdefault(self.blocks[index].type, index)
            if preferred in found:
                break
        index = found.get(preferred, found.get(other))
        self.count(walked_blocks=looked_at, skipped_blocks=looked_at - int(index is not None))
        return index

    def _recover_block(self, cpu: int, index: int, order: int, mt: int) -> int:
        """T3: the block keeps nothing in the zone; chunks smaller than the order come along uncounted."""
        got = 0
        scanned = self.block_pfn(index)
        end = scanned + names.PAGEBLOCK_PAGES
        for pfn, chunk_order in self.chunks_of(index):
            # The scan steps over a chunk as a whole, and over everything else page by page.
            self.count(scanned_pfns=pfn - scanned + 1)
            if self._capped(cpu):
                return got  # the block stays linked
            nr_pages = 1 << chunk_order
            self.account(-nr_pages, self.remove(pfn).type)
            self.count(pages_moved=nr_pages, phase0_pages=nr_pages)
            self.pcp_put(cpu, pfn, chunk_order, mt, mark=True, tail=True)
            self.emit("recover", pfn, chunk_order)
            got += nr_pages if chunk_order >= order else 0
            scanned = pfn + nr_pages
        self.count(scanned_pfns=end - scanned)
        self.unlink(index)  # even if nothing was found (STALE)
        return got

    def _claim_blocks(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 1, P-34: whole blocks, owned from now on."""
        got, mode = 0, NORMAL
        while got < missing and self._gate_open(cpu):
            pfn, mode = self.zone_take(PB, mt, aflags, mode, foreign=self.policy.phase1_source == "rmqueue")
            if pfn is None:
                break
            self.own(self.block_index(pfn), cpu)
            self.pcp_put(cpu, pfn, PB, mt, mark=True, tail=True)
            self.count(phase1_pages=names.PAGEBLOCK_PAGES)
            got += names.PAGEBLOCK_PAGES
        return got

    def _gate_open(self, cpu: int) -> bool:
        """P-34. fit: a block that does not fit under high would be drained again at once."""
        pcp, gate = self.pcps[cpu], self.policy.gate
        if gate in ("always", "never"):
            return gate == "always"
        if self.flags & names.ZONE_BELOW_HIGH:
            return False
        free = self.visible(NR_FREE) - self.visible(NR_FREE_CMA)
        if gate == "plenty" and pcp.high_max >= names.PAGEBLOCK_PAGES and 2 * free >= self.managed:
            return True
        limit, count = (pcp.high_min, 0) if gate == "min" else (pcp.high, pcp.count)
        return count + names.PAGEBLOCK_PAGES <= limit

    def _take_chunks(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 2, P-35: the largest chunks that are not too large; no stealing, ownership by adoption only."""
        got = 0
        while got < missing and (found := self._find_chunk(missing - got, order, mt, aflags)) is not None:
            head, current = found
            chunk_type = self.chunks[head].type
            pfn = self.take_chunk(head, current)
            self.emit_zone_locked(pfn, current, chunk_type)
            self.emit("chunk", pfn, current)
            adopted = self._adopted(cpu, pfn, current)
            self.pcp_put(cpu, pfn, current, mt, mark=adopted, tail=True)
            self.count(phase2_pages=1 << current)
            got += 1 << current
        return got

    def _adopted(self, cpu: int, pfn: int, order: int) -> bool:
        """P-17: whether the chunk makes the CPU the owner of its block."""
        if self.policy.adopt == "off" or order < self.policy.adopt_min_order or self.block(pfn).owner != NOBODY:
            return False
        self.adopt(self.block_index(pfn), cpu)
        return True

    def _find_chunk(self, room: int, order: int, mt: int, aflags: int) -> tuple[int, int] | None:
        """The next chunk and the order to take of it: the largest, of both types (P-36), or of the preferred (rule)."""
        types: Sequence[int] = self._by_half(mt) if self._cma_too(mt, aflags) else (mt,)
        orders = range(max(order, min(room.bit_length() - 1, 8)), order - 1, -1)
        if self.policy.cma == "rule":
            choices = ((current, chunk_type) for chunk_type in types for current in orders)
        else:
            choices = ((current, chunk_type) for current in orders for chunk_type in types)
        for current, chunk_type in choices:
            for free_lists in self.free_area[current : self.policy.phase2_max + 1]:
                if free_lists[chunk_type]:
                    return free_lists[chunk_type].head, current
        return None

    def _take_runs(self, cpu: int, missing: int, order: int, mt: int, aflags: int) -> int:
        """Phase 3, P-37, and all of the baseline's refill (B-63): runs of the order asked for, by every means."""
        got, mode = 0, NORMAL
        while got < missing:
            pfn, mode = self.zone_take(order, mt, aflags, mode)
            if pfn is None:
                break
            self.pcp_put(cpu, pfn, order, mt, mark=False, tail=True)
            self.count(phase3_pages=1 << order)
            got += 1 << order
        return got
