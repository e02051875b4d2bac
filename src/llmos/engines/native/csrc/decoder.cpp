// One step of a Llama-like decoder with int8 or int4 weights: packed rows of tokens in, logits out.
//
// A step is a fixed sequence of phases. Within a phase the threads take numbered pieces of work from
// a counter; between phases they meet at a barrier. Every row's numbers are a pure function of that
// row and its cache, so what shares the batch changes nothing.
//
// Called through ctypes (fused.py); the structs here are mirrored there.

#include <algorithm>
#include <memory>
#include <new>

#include "attention.h"
#include "linear.h"
#include "math.h"
#include "pool.h"

namespace {

constexpr int kQueryRows = 64;  // query rows attended together

struct Layer {
  Linear qkv, output, gate_up, down;
  const float *attention_norm, *mlp_norm;
  const float *post_attention_norm, *post_mlp_norm;  // null: none
  const float *query_norm, *key_norm;                // null: none
  int32_t window;                                    // 0: all
  int32_t rotary;                                    // which of the step's cos and sin
};

struct Shape {
  int32_t hidden, heads, kv_heads, head_dim, intermediate, vocab, layers, activation;
  float eps, attention_scale, attention_softcap, logits_softcap, embedding_scale;
  int32_t rotary_dim;
};

// A low-rank addition to one linear layer: out += (x a^T) b^T (Hu et al. 2021).
struct LowRank {
  const float *a, *b;  // [rank][k], [n][rank], scaled; b in the order of the layer's columns
  int32_t rank, k;     // rank 0: none
};

// Tokens first..first+count-1 of the step continue one sequence from position start.
struct Chunk {
  int32_t first, count, start, unused;
  const int32_t* blocks;
  const LowRank* adapter;  // null, or [layers][qkv, output, gate_up, down]
};

struct Step {
  int32_t tokens, chunks, wanted, unused;
  const int32_t *token_ids, *slots;
  const float *cos, *sin;  // [kinds of rotary][tokens][rotary_dim]
  const Chunk* chunk;
  const int32_t* wanted_tokens;  // whose logits to compute
  float* logits;                 // null, or [wanted][vocab]
  float* states;                 // null, or [wanted][hidden] after the last norm
};

template <class T>
struct Buffer {
  std::unique_ptr<T[], void (*)(T*)> data{nullptr, [](T* p) { std::free(p); }};
  size_t size = 0;
  T* reserve(size_t wanted) {
    if (wanted > size) {
      const size_t bytes = (wanted * sizeof(T) + 63) / 64 * 64;
      data.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      size = data ? wanted : 0;
      if (!data) throw std::bad_alloc();
    }
    return data.get();
  }
};

struct RowsBuffer {
  Buffer<int8_t> data;
  Buffer<float> scale;
  Buffer<int32_t> sums, total;
  Rows reserve(int m, int k) {
    const size_t count = m;
    return {data.reserve(count * k), scale.reserve(count), sums.reserve(count * (k / kGroup)),
            total.reserve(count), k};
  }
};

class Decoder {
 public:
  Decoder(const Shape& shape, const Layer* layers, const Linear& embedding, const Linear& head,
          const float* last_norm, int num_threads)
      : shape_(shape), layers_(layers, layers + shape.layers), embedding_(embedding), head_(head),
        last_norm_(last_norm), pool_(num_threads), scratch_(num_threads) {
    for (auto& scratch : scratch_)
      scratch.reserve(std::max(kQueryRows, shape.heads / shape.kv_heads), shape.head_dim);
    counters_ = std::make_unique<std::atomic<int>[]>(kPhases * shape.layers + 8);
  }

  void set_cache(uint16_t* keys, uint16_t* values, int64_t layer_size) {
    keys_ = keys;
    values_ = values;
    layer_size_ = layer_size;
  }

  void step(const Step& step) {
    step_ = step;
    prepare();
    pool_.run([this](int thread) { compute(thread); });
  }

 private:
  static constexpr int kPhases = 17;  // of a layer

  void prepare() {
    const int m = step_.tokens, wide = columns(&Layer::qkv);
    const int attended = padded(shape_.heads * shape_.head_dim), middle = padded(shape_.intermediate);
    hidden_ = hidden_buffer_.reserve(static_cast<size_t>(m) * shape_.hidden);
    normed_ = normed_buffer_.reserve(static_cast<size_t>(m) * shape_.hidden);
    qkv_ = qkv_buffer_.reserve(static_cast<size_t>(m) * wide);
    attended_ = attended_buffer_.reserve(static_cast<size_t>(m) * attended);
    middle_ = middle_buffer_.reserve(static_cast<size_t>(m) * middle);
    branch_ = branch_buffer_.reserve(static_cast<size_t>(m) * padded(shape_.hidden));
    adapters_.assign(m, nullptr);
    is_adapted_ = false;
    for (int c = 0; c < step_.chunks; ++c) {
      const Chunk& chunk = step_.chunk[c];
      std::fill_n(adapters_.begin() + chunk.first, chunk.count, chunk.adapter);
      is_adapted_ |= chunk.adapter != nullptr;
    }
    if (is_adapted_) adapted_ = adapted_buffer_.reserve(static_cast<size_t>(m) * columns(&Layer::gate_up));
    narrow_ = narrow_buffer_.reserve(m, padded(shape_.hidden));
    heads_ = heads_buffer_.reserve(m, attended);
    wide_ = wide_buffer_.reserve(m, middle);
    const int group = shape_.heads / shape_.kv_heads;
    const int most = std::max(1, kQueryRows / group);
    tasks_.clear();
    for (int c = 0; c < step_.chunks; ++c)
      for (int first = 0; first < step_.chunk[c].count; first += most)
        for (int head = 0; head < shape_.kv_heads; ++head)
          tasks_.push_back({c, first, std::min(most, step_.chunk[c].count - first), head});
    for (int i = 0; i < kPhases * shape_.layers + 8; ++i) counters_[i].store(0, std::memory_order_relaxed);
  }

  // Calls work(i) for every i < count, shared among the threads, and waits for all.
  template <class Work>
  void share(int phase, int count, const Work& work) {
    for (int i; (i = counters_[phase].fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
    pool_.barrier();
  }

  void compute(int thread) {
    const int m = step_.tokens, hidden = shape_.hidden;
    int phase = 0;
    share(phase++, m, [&](int t) {
      read_column(embedding_, step_.token_ids[t], row(hidden_, t, hidden), hidden, shape_.embedding_scale);
    });
    for (int l = 0; l < shape_.layers; ++l) {
      const Layer& layer = layers_[l];
      const int wide = layer.qkv.n, attended = heads_.k, middle = wide_.k;
      share(phase++, m, [&](int t) {
        normalize(row(hidden_, t, hidden), layer.attention_norm, row(normed_, t, hidden));
        quantize_row(narrow_, t, row(normed_, t, hidden), hidden);
      });
      linear(phase++, layer.qkv, narrow_, Storing{qkv_, wide, wide});
      adapt(phase, 4 * l, normed_, hidden, qkv_, wide);
      share(phase++, m, [&](int t) { place(layer, l, t); });
      share(phase++, static_cast<int>(tasks_.size()), [&](int i) { attend_task(layer, l, tasks_[i], thread); });
      share(phase++, m, [&](int t) {
        quantize_row(heads_, t, row(attended_, t, attended), shape_.heads * shape_.head_dim);
      });
      branch(phase, layer.output, heads_, layer.post_attention_norm, 4 * l + 1, attended_, attended);
      share(phase++, m, [&](int t) {
        normalize(row(hidden_, t, hidden), layer.mlp_norm, row(normed_, t, hidden));
        quantize_row(narrow_, t, row(normed_, t, hidden), hidden);
      });
      gate(phase, layer, 4 * l + 2, middle);
      share(phase++, m, [&](int t) {
        quantize_row(wide_, t, row(middle_, t, middle), shape_.intermediate);
      });
      branch(phase, layer.down, wide_, layer.post_mlp_norm, 4 * l + 3, middle_, middle);
    }
    predict(phase);
  }

  // Adds what the rows' adapters add to a linear layer's out [m][n], from its input x [m][stride]. What
  // takes a phase of its own only where adapters are in use takes a number all the same.
  void adapt(int& phase, int linear, const float* x, int stride, float* out, int n) {
    const int mine = phase++;
    if (!is_adapted_) return;
    share(mine, step_.tokens, [&](int t) {
      if (adapters_[t] && adapters_[t][linear].rank)
        add_low_rank(adapters_[t][linear], row(x, t, stride), row(out, t, n), n);
    });
  }

  static void add_low_rank(const LowRank& low, const float* x, float* out, int n) {
    std::vector<float> inner(low.rank);
    for (int r = 0; r < low.rank; ++r) inner[r] = dot(x, row(low.a, r, low.k), low.k);
    for (int c = 0; c < n; ++c) out[c] += dot(inner.data(), row(low.b, c, low.rank), low.rank);
  }

  struct Storing {
    float* out;
    int stride, columns;
    void operator()(int r, int tile, const __m512* v) const {
      float* to = out + static_cast<size_t>(r) * stride + tile * kTile;
      for (int j = 0; j < 4; ++j)
        _mm512_mask_storeu_ps(to + 16 * j, tail_mask(columns - tile * kTile - 16 * j), v[j]);
    }
  };

  struct Adding {
    float* out;
    int stride;
    void operator()(int r, int tile, const __m512* v) const {
      float* to = out + static_cast<size_t>(r) * stride + tile * kTile;
      for (int j = 0; j < 4; ++j) {
        const __mmask16 mask = tail_mask(stride - tile * kTile - 16 * j);
        const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to + 16 * j), v[j]);
        _mm512_mask_storeu_ps(to + 16 * j, mask, sum);
      }
    }
  };

  template <class Store>
  void linear(int phase, const Linear& w, const Rows& x, const Store& store) {
    share(phase, w.n / kTile, [&](int tile) { linear_tile(w, tile, x, step_.tokens, store); });
  }

  // hidden += norm(x w), or x w where there is no norm.
  void branch(int& phase, const Linear& w, const Rows& x, const float* norm, int number, const float* input,
              int width) {
    const int hidden = shape_.hidden, stride = w.n;
    if (!norm && !is_adapted_) {
      linear(phase, w, x, Adding{hidden_, hidden});
      phase += 3;
      return;
    }
    linear(phase++, w, x, Storing{branch_, stride, stride});
    adapt(phase, number, input, width, branch_, stride);
    share(phase++, step_.tokens, [&](int t) {
      float* out = row(branch_, t, stride);
      if (norm) normalize(out, norm, out);
      float* to = row(hidden_, t, hidden);
      for (int i = 0; i < hidden; ++i) to[i] += out[i];
    });
  }

  // middle = activation(gate) * up. A tile holds 32 columns of the gate, then the 32 of up.
  void gate(int& phase, const Layer& layer, int number, int middle) {
    const auto kind = static_cast<Activation>(shape_.activation);
    if (!is_adapted_) {
      linear(phase, layer.gate_up, narrow_, [&](int r, int tile, const __m512* v) {
        float* to = middle_ + static_cast<size_t>(r) * middle + tile * (kTile / 2);
        _mm512_storeu_ps(to, _mm512_mul_ps(activate(v[0], kind), v[2]));
        _mm512_storeu_ps(to + 16, _mm512_mul_ps(activate(v[1], kind), v[3]));
      });
      phase += 3;
      return;
    }
    const int stride = layer.gate_up.n;
    linear(phase++, layer.gate_up, narrow_, Storing{adapted_, stride, stride});
    adapt(phase, number, normed_, shape_.hidden, adapted_, stride);
    share(phase++, step_.tokens, [&](int t) {
      const float* from = row(adapted_, t, stride);
      float* to = row(middle_, t, middle);
      for (int tile = 0; tile < stride / kTile; ++tile)
        for (int j = 0; j < 2; ++j) {
          const __m512 g = _mm512_loadu_ps(from + tile * kTile + 16 * j);
          const __m512 u = _mm512_loadu_ps(from + tile * kTile + 32 + 16 * j);
          _mm512_storeu_ps(to + tile * 32 + 16 * j, _mm512_mul_ps(activate(g, kind), u));
        }
    });
  }

  void normalize(const float* x, const float* weight, float* out) const {
    rms_norm(x, weight, shape_.hidden, shape_.eps, out);
  }

  // Norms and turns token t's queries and keys, and writes its keys and values to the cache.
  void place(const Layer& layer, int l, int t) {
    const int dim = shape_.head_dim;
    float* q = row(qkv_, t, layer.qkv.n);
    float* k = q + shape_.heads * dim;
    const float* v = k + shape_.kv_heads * dim;
    const size_t at = (static_cast<size_t>(layer.rotary) * step_.tokens + t) * shape_.rotary_dim;
    for (int h = 0; h < shape_.heads + shape_.kv_heads; ++h) {
      float* x = q + h * dim;
      const float* norm = h < shape_.heads ? layer.query_norm : layer.key_norm;
      if (norm) rms_norm(x, norm, dim, shape_.eps, x);
      rotate(x, step_.cos + at, step_.sin + at);
    }
    const int block = step_.slots[t] / kBlock, offset = step_.slots[t] % kBlock;
    for (int h = 0; h < shape_.kv_heads; ++h) {
      const size_t base = l * layer_size_ + (static_cast<size_t>(block) * shape_.kv_heads + h) * dim * kBlock;
      for (int d = 0; d < dim; ++d) keys_[base + d * kBlock + offset] = to_half(k[h * dim + d]);
      for (int d = 0; d < dim; ++d) values_[base + offset * dim + d] = to_half(v[h * dim + d]);
    }
  }

  static uint16_t to_half(float x) {  // beyond float16's range: its largest number
    return _cvtss_sh(std::isnan(x) ? x : std::clamp(x, -65504.0f, 65504.0f), _MM_FROUND_TO_NEAREST_INT);
  }

  // Rotary embedding (Su et al. 2021), the halves of a head paired.
  void rotate(float* x, const float* cos, const float* sin) const {
    const int half = shape_.rotary_dim / 2;
    for (int i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
  }

  struct Task {
    int chunk, first, count, head;
  };

  void attend_task(const Layer& layer, int l, const Task& task, int thread) {
    const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    const Chunk& chunk = step_.chunk[task.chunk];
    AttentionScratch& s = scratch_[thread];
    const __m512 scale = _mm512_set1_ps(shape_.attention_scale);
    for (int i = 0; i < task.count; ++i)
      for (int g = 0; g < group; ++g) {
        const float* q = row(qkv_, chunk.first + task.first + i, layer.qkv.n) + (task.head * group + g) * dim;
        float* to = s.query.data() + static_cast<size_t>(i * group + g) * dim;
        for (int d = 0; d < dim; d += 16)
          _mm512_storeu_ps(to + d, _mm512_mul_ps(_mm512_loadu_ps(q + d), scale));
      }
    const AttentionShape shape{shape_.heads,           shape_.kv_heads,          dim,
                               shape_.attention_scale, shape_.attention_softcap, layer.window};
    attend(shape, s, keys_ + l * layer_size_, values_ + l * layer_size_, chunk.blocks, task.head,
           task.count * group, group, chunk.start + task.first);
    for (int i = 0; i < task.count; ++i) {
      float* to = row(attended_, chunk.first + task.first + i, heads_.k) + task.head * group * dim;
      std::copy_n(s.out.data() + static_cast<size_t>(i) * group * dim, group * dim, to);
    }
  }

  void predict(int& phase) {
    const int hidden = shape_.hidden;
    share(phase++, step_.wanted, [&](int i) {
      float* out = row(normed_, i, hidden);
      rms_norm(row(hidden_, step_.wanted_tokens[i], hidden), last_norm_, hidden, shape_.eps, out);
      if (step_.states) std::copy_n(out, hidden, row(step_.states, i, hidden));
      quantize_row(narrow_, i, out, hidden);
    });
    if (!step_.logits) return;
    const Storing store{step_.logits, shape_.vocab, shape_.vocab};
    share(phase++, head_.n / kTile, [&](int tile) {
      linear_tile(head_, tile, narrow_, step_.wanted, [&](int r, int at, __m512* v) {
        if (shape_.logits_softcap > 0) {
          const __m512 cap = _mm512_set1_ps(shape_.logits_softcap);
          for (int j = 0; j < 4; ++j) v[j] = _mm512_mul_ps(tanh_ps(_mm512_div_ps(v[j], cap)), cap);
        }
        store(r, at, v);
      });
    });
  }

  static float dot(const float* x, const float* y, int n) {
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < n; i += 16) {
      const __mmask16 mask = tail_mask(n - i);
      sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i), sum);
    }
    return _mm512_reduce_add_ps(sum);
  }

  template <class T>
  static T* row(T* data, int r, int width) {
    return data + static_cast<size_t>(r) * width;
  }
  static int padded(int n) { return (n + kTile - 1) / kTile * kTile; }
  int columns(Linear Layer::*which) const {
    int most = 0;
    for (const Layer& layer : layers_) most = std::max(most, (layer.*which).n);
    return most;
  }

  const Shape shape_;
  const std::vector<Layer> layers_;
  const Linear embedding_, head_;
  const float* last_norm_;
  Pool pool_;
  std::vector<AttentionScratch> scratch_;
  std::unique_ptr<std::atomic<int>[]> counters_;
  uint16_t *keys_ = nullptr, *values_ = nullptr;
  int64_t layer_size_ = 0;
  Step step_{};
  std::vector<Task> tasks_;
  std::vector<const LowRank*> adapters_;  // of each token
  bool is_adapted_ = false;
  Buffer<float> hidden_buffer_, normed_buffer_, qkv_buffer_, attended_buffer_, middle_buffer_,
      branch_buffer_, adapted_buffer_;
  RowsBuffer narrow_buffer_, heads_buffer_, wide_buffer_;
  float *hidden_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *attended_ = nullptr, *middle_ = nullptr,
        *branch_ = nullptr, *adapted_ = nullptr;
  Rows narrow_{}, heads_{}, wide_{};
};

}  // namespace

extern "C" {

Decoder* llmos_decoder_new(const Shape* shape, const Layer* layers, const Linear* embedding, const Linear* head,
                           const float* last_norm, int32_t num_threads) {
  return new Decoder(*shape, layers, *embedding, *head, last_norm, num_threads);
}

void llmos_decoder_free(Decoder* decoder) { delete decoder; }

void llmos_decoder_set_cache(Decoder* decoder, uint16_t* keys, uint16_t* values, int64_t layer_size) {
  decoder->set_cache(keys, values, layer_size);
}

// Lets all decoders compute with so many threads at most, from their next step on.
void llmos_set_threads(int32_t threads) { thread_limit.store(threads); }

// Returns whether there was memory for it.
int32_t llmos_decoder_step(Decoder* decoder, const Step* step) {
  try {
    decoder->step(*step);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return 1;
}

// Sizes of the structs, for the caller to check that both sides mean the same.
void llmos_struct_sizes(int32_t out[6]) {
  const size_t sizes[6] = {sizeof(Linear), sizeof(Layer), sizeof(Shape), sizeof(Chunk), sizeof(LowRank), sizeof(Step)};
  std::copy_n(sizes, 6, out);
}
}
