# Contig: contiguous allocation, cma_alloc and memory hotplug, to the end or lock by lock. Included by core.pyx.

from ..contig import CONTIG_REASONS, ContigResult

from .cma cimport is_claimed, next_area, set_claimed
from .contig cimport (
    GIVE_UP, G_CALL, G_MOVE, G_OVER, G_RANGE, MOVED, REFUSED, Contig as CContig, begin_alloc_contig, begin_cma_alloc,
    begin_cma_release, begin_offline_pages, begin_online_pages, contig_next, first_memory, still_held,
)
from .op cimport OP_FOR_CMA
from .request cimport carry

cdef int MAX_ALIGN = 20


cdef list areas_of(Zone zone):
    """CT-9: runs of whole C blocks, ascending: (pfn, pages)."""
    cdef idx start = 0
    cdef idx end = 0
    out = []
    while next_area(&zone.z, &start, &end):
        out.append((pfn_of(&zone.z, start), <int64_t>(end - start)))
    return out

cdef bint agreed(answer):
    """What a move callback said; nothing said is a yes."""
    return answer is None or bool(answer)

cdef class Contig(Call):
    cdef CContig g
    cdef bint calling          # g.call is under way, lock by lock
    cdef int asked
    cdef list tried
    cdef Zone zone

    cdef Zone in_zone(self, nodes, int64_t start, int64_t end, int cpu):
        """The zone that has pages [start, end)."""
        cdef int k
        self.tried = []
        self.look(nodes, cpu)
        k = node_zone_of(&self.ref, start)
        self.zone = self.zones[max(k, 0)]
        if k < 0 or start >= end or end > self.zone.start_pfn + self.zone.pages:
            raise UsageError(f"pages {start}..{end - 1}: expected one or more, all in one of the zones "
                             f"{[zone.name for zone in self.zones]}")
        return self.zone

    @staticmethod
    def alloc(nodes, int64_t start, int64_t end, bint cma=False, int cpu=0):
        cdef Contig self = Contig.__new__(Contig)
        cdef CZone *z = &self.in_zone(nodes, start, end, cpu).z
        cdef idx i
        for i in range(index_of(z, start), index_of(z, end) if cma else 0):
            if is_claimed(z, i):
                raise UsageError(f"pfn {pfn_of(z, i)} was handed out by cma_alloc: give it back by cma_release")
        begin_alloc_contig(
            &self.g, &self.call, &self.ref, z, index_of(z, start), index_of(z, end), OP_FOR_CMA if cma else 0, cpu
        )
        return self

    @staticmethod
    def cma_alloc(nodes, int64_t count, int align=0, int area=0, int cpu=0):
        cdef Contig self = Contig.__new__(Contig)
        cdef CZone *z
        self.look(nodes, cpu)
        areas = [one for zone in self.zones for one in areas_of(zone)]
        if not 0 <= area < len(areas):
            raise UsageError(f"CMA area {area}: there are {len(areas)}" if areas else "there is no CMA area")
        if count < 1 or not 0 <= align <= MAX_ALIGN:
            raise UsageError(f"{count} pages aligned to order {align}: expected 1 or more, and 0..{MAX_ALIGN}")
        pfn, pages = areas[area]
        z = &self.in_zone(nodes, pfn, pfn + pages, cpu).z
        begin_cma_alloc(
            &self.g, &self.call, &self.ref, z, index_of(z, pfn), index_of(z, pfn + pages), count, align, cpu
        )
        return self

    @staticmethod
    def cma_release(nodes, int64_t pfn, int64_t count, int cpu=0):
        cdef Contig self = Contig.__new__(Contig)
        cdef CZone *z = &self.in_zone(nodes, pfn, pfn + count, cpu).z
        cdef idx i
        for i in range(index_of(z, pfn), index_of(z, pfn + count)):
            if not is_claimed(z, i):
                raise UsageError(f"pfn {pfn_of(z, i)} is {describe(z, i)}, and not handed out by cma_alloc")
        begin_cma_release(&self.g, &self.call, z, index_of(z, pfn), count, cpu)
        return self

    @staticmethod
    def offline_pages(nodes, int64_t start, int64_t pages, int cpu=0):
        cdef Contig self = Contig.__new__(Contig)
        cdef CZone *z = &self.whole_blocks(nodes, start, pages, cpu).z
        begin_offline_pages(&self.g, &self.call, &self.ref, z, index_of(z, start), index_of(z, start + pages), cpu)
        return self

    @staticmethod
    def online_pages(nodes, int64_t start, int64_t pages, int cpu=0):
        cdef Contig self = Contig.__new__(Contig)
        cdef CZone *z = &self.whole_blocks(nodes, start, pages, cpu).z
        cdef idx end = index_of(z, start + pages)
        cdef idx i = first_memory(z, index_of(z, start), end)
        if i < end:
            raise UsageError(f"pfn {pfn_of(z, i)} is {describe(z, i)}: only memory that is off-line comes on-line")
        begin_online_pages(&self.g, &self.call, z, index_of(z, start), end, cpu)
        return self

    cdef Zone whole_blocks(self, nodes, int64_t start, int64_t pages, int cpu):
        self.in_zone(nodes, start, start + pages, cpu)
        if start % PB_PAGES or pages % PB_PAGES:
            raise UsageError(f"{pages} pages from pfn {start}: expected whole pageblocks of {PB_PAGES}")
        return self.zone

    cdef bint ask(self):
        """On to what is asked for next; False: it is over."""
        self.asked = contig_next(&self.g)
        if self.asked == G_RANGE:
            self.tried.append((pfn_of(&self.zone.z, self.g.start), pfn_of(&self.zone.z, self.g.end),
                               CONTIG_REASONS[self.g.reason], self.busy()))
        return self.asked != G_OVER

    cdef busy(self):
        return pfn_of(&self.zone.z, self.g.busy) if self.g.reason and self.g.busy else None

    cdef tuple move(self):
        """What G_MOVE is about: (old pfn, new pfn, order)."""
        cdef CContig *g = &self.g
        return pfn_of(g.zone, g.old), pfn_of(g.to, g.target), word_order(word_of(g.to, g.target))

    cdef need_held(self):
        """What was answered is not true of a page that `move` itself freed."""
        cdef CContig *g = &self.g
        if not (still_held(g, g.zone, g.old) if g.moved else still_held(g, g.to, g.target)):
            said, pfn = ("yes", pfn_of(g.zone, g.old)) if g.moved else ("no", pfn_of(g.to, g.target))
            raise BadFree(f"move said {said}, and freed pfn {pfn} itself: a move copies and says so, and frees nothing")

    def run(self, move=None):
        """To the end, on one thread. move(old_pfn, new_pfn, order): False refuses."""
        error = None
        while self.ask():
            if self.asked == G_CALL:
                carry(&self.call)
            elif self.asked == G_MOVE:
                self.g.moved = REFUSED
                try:
                    self.g.moved = MOVED if move is None or agreed(move(*self.move())) else REFUSED
                    self.need_held()
                except BaseException as raised:    # everything is put back, then it goes on its way
                    error = raised
                    self.g.moved |= GIVE_UP
                    self.g.area_end = self.g.area
        for zone in self.zones:
            (<Zone>zone).done()
        if error is not None:
            raise error
        return self.result

    def step(self, bint got=True):
        """As of a Call. Also ("move", ...), which the next step answers, and ("next", ()): a call is over."""
        if self.calling:
            return self.further(got)
        if self.asked == G_MOVE:
            self.g.moved = MOVED if got else REFUSED
        while self.ask():
            if self.asked == G_MOVE:
                return "move", self.move()
            if self.asked == G_CALL:
                return self.further(True)
        return None

    cdef further(self, bint got):
        """The call under way to its next lock action."""
        action = self.on(&self.call, got)
        self.calling = action is not None
        return action if self.calling else ("next", ())

    @property
    def result(self):
        cdef CZone *z = &self.zone.z
        return ContigResult(
            None if self.g.reason else pfn_of(z, self.g.start), CONTIG_REASONS[self.g.reason], self.busy(),
            self.g.migrated, self.g.refusals, tuple(self.tried),
        )
