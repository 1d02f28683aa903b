// The decoder with weights in 8 bits (model/int8.h).

#include "decoder.h"
#include "int8.h"

namespace {

template <class T>
struct Taken<T, int8> {
    Spread kept;

    Taken(int64_t rows, int64_t n) : kept(rows, n) {}
    void row(int64_t row, const T* x) { kept.take(row, x); }
    Rows<int8> all(const T* x, int64_t rows) {  // by all threads
#pragma omp for
        for (int64_t row = 0; row < rows; row++) kept.take(row, x + row * kept.n);
        return kept.rows();
    }
    Rows<int8> rows(const T*) const { return kept.rows(); }
};

}  // namespace

EXPORTED_WEIGHTS(int8, int8)
EXPORTED(float, int8, float32_int8)
EXPORTED(bfloat16, int8, bfloat16_int8)
