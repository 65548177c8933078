// The sizes of the 1989 network, and the memory layout of H1's planes.
//
// The values of H1 are needed in two orders. As `units` they are dense: the 12 planes of a unit,
// then the 12 planes of its right neighbour, so that no lane is idle when H1 is computed. As `rows`
// they are in a padded map with a row of planes for each position, so that a *window*, a vector of
// adjacent planes, can be multiplied by the weights of an H2 plane.
#pragma once

#include "simd.hpp"

namespace lecun_ablate {
namespace {

constexpr int kPlanes = 12, kKernel = 5, kTaps = kKernel * kKernel, kStride = 2, kPad = 2;
constexpr int kImage = 16, kImagePadded = kImage + 2 * kPad;
constexpr int kH1 = 8, kH1Map = kH1 * kH1;
constexpr int kH1Padded = 11;  // the last padding row and column are never read
constexpr int kH2 = 4, kH2Map = kH2 * kH2, kH2Units = kPlanes * kH2Map;
constexpr int kH3 = 30;

// In one dimension, the taps [begin, end) of unit u that are inside a map of `size`; the others see
// padding.
struct Taps {
    int begin, end;
};
constexpr Taps taps_inside(int u, int size) {
    const int first = kPad - kStride * u, last = first + size;
    return {first > 0 ? first : 0, last < kKernel ? last : kKernel};
}
constexpr bool inside(int u, int tap, int size) {
    return taps_inside(u, size).begin <= tap && tap < taps_inside(u, size).end;
}

// 2 or 4 lanes: the planes of a unit fill whole vectors, so both orders are the same.
template <class T, int lanes>
struct Layout {
    using V = typename VectorTypes<T, lanes>::Vector;

    static constexpr int kTileUnits = 1, kTileVectors = kPlanes / lanes;  // the period of `units`
    static constexpr int kRow = kPlanes;                                  // values per position
    static constexpr int kWindowStep = lanes;                             // of a window, in values
    static constexpr int kWindows = kPlanes / lanes;

    static constexpr int plane_at(int place) { return place; }

    // The pixels that vector v of a tile is multiplied by, if the tile's first unit sees *pixel.
    template <int v>
    ALWAYS_INLINE static V spread(const T* pixel) {
        return pixel[0] - V{};
    }

    // units -> rows, for one tile
    ALWAYS_INLINE static void to_rows(const V* units, V* rows) {
        unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { rows[v] = units[v]; });
    }

    // sums over windows -> units, for one tile; windows: (window, unit)
    template <class Windows>
    ALWAYS_INLINE static void to_units(const Windows& windows, int unit, V* units) {
        unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { units[v] = windows[v][unit]; });
    }

    // Adds up the copies of each plane in a tile, and sets all copies to the sum.
    ALWAYS_INLINE static void add_copies(V*) {}
};

// 8 lanes: two units A and B fill three vectors,
//
//     units   A0 ... A7 | A8 ... A11 B0 ... B3 | B4 ... B11
//
// and a row repeats its first 4 planes at the end, so that the 8 planes from plane 0, 4 or 8 on are
// a window. The last window wraps around:
//
//     row     0 ... 7 | 8 ... 11 0 ... 3
template <class T>
struct Layout<T, 8> {
    using V = typename VectorTypes<T, 8>::Vector;

    static constexpr int kTileUnits = 2, kTileVectors = 3;
    static constexpr int kRow = 16;
    static constexpr int kWindowStep = 4;
    static constexpr int kWindows = 3;

    static constexpr int plane_at(int place) { return place % kPlanes; }

    template <int v>
    ALWAYS_INLINE static V spread(const T* pixel) {
        // Hidden, since GCC would otherwise build the mixed vector from four pieces, not two.
        const V a = hide(pixel[0] - V{}), b = hide(pixel[kStride] - V{});
        return v == 0 ? a : v == 1 ? halves<0, 1>(a, b) : b;
    }

    ALWAYS_INLINE static void to_rows(const V* units, V* rows) {
        const V a = units[0], ab = units[1], b = units[2];
        rows[0] = a;
        rows[1] = halves<0, 0>(ab, a);
        rows[2] = halves<1, 0>(ab, b);
        rows[3] = halves<1, 1>(b, ab);
    }

    template <class Windows>
    ALWAYS_INLINE static void to_units(const Windows& windows, int unit, V* units) {
        const V* from_0 = windows[0] + unit;
        const V* from_4 = windows[1] + unit;
        const V* from_8 = windows[2] + unit;
        const V a = from_0[0] + halves<1, 0>(from_8[0], from_4[0]);  // planes 0 to 7 of A
        const V b = from_0[1] + halves<1, 0>(from_8[1], from_4[1]);  // and of B
        const V rest = halves<1, 1>(from_4[0], from_4[1]) +          // planes 8 to 11 of A,
                       halves<0, 0>(from_8[0], from_8[1]);           // then of B
        units[0] = a;
        units[1] = halves<0, 0>(rest, b);
        units[2] = halves<1, 1>(b, rest);
    }

    ALWAYS_INLINE static void add_copies(V* units) {
        const V a = units[0], ab = units[1], b = units[2];
        units[0] = a + halves<1, 0>(ab, b);
        units[1] = ab + halves<1, 0>(b, a);
        units[2] = b + halves<1, 0>(a, ab);
    }

private:
    // Half i of a, then half j of b.
    template <int i, int j>
    ALWAYS_INLINE static V halves(V a, V b) {
        constexpr int x = 4 * i, y = 8 + 4 * j;
        return __builtin_shufflevector(a, b, x, x + 1, x + 2, x + 3, y, y + 1, y + 2, y + 3);
    }
};

}  // namespace
}  // namespace lecun_ablate
