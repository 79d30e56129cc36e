// How the elements of a kernel are shared between threads and walked; compiled once per translation unit.

extern "C" void* aligned_alloc(__SIZE_TYPE__, __SIZE_TYPE__);
extern "C" void free(void*);
extern "C" int omp_get_max_threads(void);
extern "C" int omp_get_num_threads(void);
extern "C" int omp_get_thread_num(void);
extern "C" int omp_in_parallel(void);

namespace lt {

// Computes `rows` times `size` elements. Operand k starts at p[k] and advances by step[k] bytes with each element of a
// row and by row[k] bytes with each row. `rest` is what follows the walk in the description of a launch.
typedef void (*Tile)(char* const* p, const int64_t* step, const int64_t* row, int64_t rows, int64_t size,
                     const int64_t* rest);

// What the caller describes a launch with, in order: `size`, `rows`, `block`, `rank`, the sizes of the `rank` outer loops
// from the innermost to the outermost; then, for every operand, its strides in bytes: step, row, outer loops.
// A `block` of 0 means that rows follow each other in memory and are walked one after the other. Otherwise rows
// interleave (they are shorter across than along), and all rows are walked `block` elements at a time.
struct Walk {
    const int64_t *sizes, *step, *row, *outer, *more;
    int64_t size, rows, block, rank;
    int count;
    Tile tile;

    Walk(Tile tile, const int64_t* n, int count)
        : sizes(n + 4), step(sizes + n[3]), row(step + count), outer(row + count),
          more(outer + n[3] * count), size(n[0]), rows(n[1]), block(n[2]), rank(n[3]), count(count), tile(tile) {}

    // Places where the work may be cut: elements, or columns of all rows when these interleave.
    int64_t places() const {
        int64_t product = block ? size : size * rows;
        for (int64_t d = 0; d < rank; ++d) product *= sizes[d];
        return product;
    }

    void range(void* const* base, int64_t begin, int64_t end) const {
        int64_t left = end - begin, across = block ? 1 : rows, i = begin % size;
        int64_t r = begin / size % across, rest = begin / size / across;
        int64_t index[rank + 1];
        char* p[count];
        for (int k = 0; k < count; ++k) p[k] = (char*)base[k] + r * row[k];
        for (int64_t d = 0; d < rank; ++d) {
            index[d] = rest % sizes[d];
            rest /= sizes[d];
            for (int k = 0; k < count; ++k) p[k] += index[d] * outer[d * count + k];
        }
        while (left > 0) {
            if (block || i || left < size) {
                int64_t n = size - i < left ? size - i : left;
                part(p, i, n);
                left -= n;
                i += n;
                if (i < size) break;
                i = 0;
                r += 1;
                for (int k = 0; k < count; ++k) p[k] += row[k];
            } else {
                int64_t n = left / size < rows - r ? left / size : rows - r;
                tile(p, step, row, n, size, more);
                left -= n * size;
                r += n;
                for (int k = 0; k < count; ++k) p[k] += n * row[k];
            }
            if (r < across) continue;
            for (int k = 0; k < count; ++k) p[k] -= r * row[k];
            r = 0;
            for (int64_t d = 0; d < rank; ++d) {
                const int64_t* stride = outer + d * count;
                for (int k = 0; k < count; ++k) p[k] += stride[k];
                if (++index[d] < sizes[d]) break;
                index[d] = 0;
                for (int k = 0; k < count; ++k) p[k] -= sizes[d] * stride[k];
            }
        }
    }

    // Elements [i, i + n) of one row, or of all rows when these interleave.
    void part(char* const* p, int64_t i, int64_t n) const {
        char* q[count];
        for (int64_t end = i + n; i < end;) {
            int64_t m = block && block < end - i ? block : end - i;
            for (int k = 0; k < count; ++k) q[k] = p[k] + i * step[k];
            tile(q, step, row, block ? rows : 1, m, more);
            i += m;
        }
    }
};

// Few elements are not worth waking a thread for: below this many per thread it is alone. Those of rows take longer.
static const int64_t elements_per_thread = 32768, elements_of_rows = 8192;

// `each` is how many elements there are in what the walk takes for one: 1, or a whole row. Of whole rows a thread gets
// `together` at the least.
static __attribute__((noinline)) void launch(Tile tile, const int64_t* n, int count, void* const* base,
                                             int64_t each = 1, int64_t together = 1) {
    Walk walk(tile, n, count);
    int64_t places = walk.places(), elements = (walk.block ? places * walk.rows : places) * each;
#ifdef _OPENMP
    int64_t threads = elements / (each > 1 ? elements_of_rows : elements_per_thread);
    if (threads > 1 && !omp_in_parallel()) {
        int64_t most = omp_get_max_threads();
        threads = threads < most ? threads : most;
        // Cuts between whole rows where there are enough of them, else between cache lines.
        int64_t unit = each > 1 ? together : walk.size <= 4096 && !walk.block ? walk.size : 64;
#pragma omp parallel num_threads(threads)
        {
            int64_t id = omp_get_thread_num(), all = omp_get_num_threads(), units = (places + unit - 1) / unit;
            int64_t begin = units * id / all * unit, end = units * (id + 1) / all * unit;
            walk.range(base, begin, end < places ? end : places);
        }
        return;
    }
#endif
    walk.range(base, 0, places);
}

// A tile for each of several members, whose elements all lie in a row. `n` says how many members there are, the step in
// bytes of each of a member's `count` operands, and where each member ends if all elements are counted on.
struct Members {
    const int64_t *step, *ends;
    void* const* base;
    int64_t members;
    int count;
    Tile tile;

    Members(Tile tile, const int64_t* n, int count, void* const* base)
        : step(n + 1), ends(step + count), base(base), members(n[0]), count(count), tile(tile) {}

    void range(int64_t begin, int64_t end) const {
        int64_t m = 0, above = members;  // the first member that ends behind `begin`
        while (m < above) {
            int64_t middle = (m + above) / 2;
            if (ends[middle] > begin) above = middle;
            else m = middle + 1;
        }
        char* q[count];
        for (; begin < end; ++m) {
            int64_t first = m ? ends[m - 1] : 0, last = ends[m] < end ? ends[m] : end;
            for (int k = 0; k < count; ++k) q[k] = (char*)base[m * count + k] + (begin - first) * step[k];
            if (begin < last) tile(q, step, step, 1, last - begin, nullptr);
            begin = last;
        }
    }
};

static __attribute__((noinline)) void launch_each(Tile tile, const int64_t* n, int count, void* const* base) {
    Members each(tile, n, count, base);
    int64_t elements = each.ends[each.members - 1];
#ifdef _OPENMP
    int64_t threads = elements / elements_per_thread;
    if (threads > 1 && !omp_in_parallel()) {
        int64_t most = omp_get_max_threads();
        threads = threads < most ? threads : most;
#pragma omp parallel num_threads(threads)
        {
            int64_t id = omp_get_thread_num(), all = omp_get_num_threads(), units = (elements + 63) / 64;
            int64_t begin = units * id / all * 64, end = units * (id + 1) / all * 64;
            each.range(begin, end < elements ? end : elements);
        }
        return;
    }
#endif
    each.range(0, elements);
}

// Memory of the calling thread's own for `bytes` bytes, until it asks again; another one for each `USE`.
template <int USE = 0>
static char* scratch(int64_t bytes) {
    static thread_local char* memory = nullptr;
    static thread_local int64_t size = 0;
    if (bytes > size) {
        free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = (char*)aligned_alloc(64, size);
    }
    return memory;
}

}  // namespace lt
