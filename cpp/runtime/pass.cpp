// How rows of tokens go through the layers of a model.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "runtime/model.h"

namespace lora_edge {

void Model::rotations(const std::vector<Row>& rows) {
  for (size_t r = 0; r < config_.ropes.size(); ++r) {
    const auto& [inv_freq, magnitude] = config_.ropes[r];
    const size_t half = inv_freq.size(), n = rows.size() * half;
    host_.resize(2 * n);
    for (size_t i = 0; i < rows.size(); ++i)
      for (size_t j = 0; j < half; ++j) {
        const double angle = static_cast<float>(rows[i].position) * inv_freq[j];  // rounded to float32, see rope.cpp
        host_[i * half + j] = static_cast<float>(std::cos(angle)) * magnitude;
        host_[n + i * half + j] = static_cast<float>(std::sin(angle)) * magnitude;
      }
    backend_->write(cos_[r].grow(n), host_.data(), n * sizeof(float));
    backend_->write(sin_[r].grow(n), host_.data() + n, n * sizeof(float));
  }
}

void Model::run_rows(const std::vector<Feed>& feeds, const std::vector<Row>& rows, const std::function<bool()>& poll) {
  const Config& c = config_;
  const size_t m = rows.size();
  const int rows_n = static_cast<int>(m);
  std::vector<int> tokens, positions, parts, new_positions(feeds.size());
  std::vector<RowGroup> groups;
  std::vector<RowPlace> places;
  for (size_t i = 0; i < m; ++i) {
    Sequence& s = *feeds[rows[i].feed].sequence;
    tokens.push_back(rows[i].token);
    positions.push_back(rows[i].position);
    parts.push_back(rows[i].part);
    places.push_back(
        {&s.kv_, rows[i].position, c.causal ? rows[i].position + 1 : int(feeds[rows[i].feed].tokens.size())});
    if (i == 0 || rows[i].feed != rows[i - 1].feed ||
        starts_between(s.adapters_, rows[i - 1].position, rows[i].position))
      groups.push_back({int(i), int(i), &s.adapters_, rows[i].position});
    groups.back().end = static_cast<int>(i) + 1;
    ++new_positions[rows[i].feed];
  }
  for (size_t f = 0; f < feeds.size(); ++f)
    if (new_positions[f]) feeds[f].sequence->kv_.reserve(new_positions[f]);

  const size_t fused_q = c.fused_qkv ? 2 * size_t(c.kv_dim()) : 0, kv = c.fused_qkv ? 0 : size_t(c.kv_dim());
  h_.grow(m * size_t(std::max(c.n_embd, c.q_dim())));
  y_.grow(c.post_norm ? m * size_t(c.n_embd) : 0);
  q_.grow(m * (size_t(c.q_dim()) + fused_q));
  k_.grow(m * kv);
  v_.grow(m * kv);
  heads_.grow(c.parallel ? m * size_t(c.q_dim()) : 0);
  gate_.grow(m * size_t(c.n_ff));
  up_.grow(c.gated ? m * size_t(c.fused_gate_up ? 2 * c.n_ff : c.n_ff) : 0);
  rotations(rows);

  float* x = x_.grow(m * size_t(c.n_embd));
  backend_->begin(c, places, groups);
  backend_->embed(embedding_, embedding_id(c), tokens.data(), groups, rows_n, x);
  if (c.n_parts > 0) backend_->add_rows(parts_, parts, x);
  if (c.learned_positions) backend_->add_rows(positions_, positions, x);
  if (c.embedding_norm) backend_->norm(c, x, embedding_norm_, rows_n, c.n_embd, x);
  if (c.embedding_scale != 1.0f) backend_->scale(x, c.embedding_scale, rows_n, c.n_embd);
  for (int i = 0; i < c.n_layer; ++i) {
    if (poll && poll()) throw Cancelled();
    run_layer(i, places, groups);
  }
  for (size_t f = 0; f < feeds.size(); ++f)
    if (new_positions[f]) feeds[f].sequence->kv_.advance(new_positions[f]);
  for (const Row& row : rows)
    if (row.first) feeds[row.feed].sequence->logits_.cut(0);
}

void Model::run_layer(int i, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups) {
  const Config& c = config_;
  const Layer& layer = layers_[static_cast<size_t>(i)];
  const Weight* w = layer.linears;
  const int m = static_cast<int>(places.size());
  Backend& b = *backend_;
  float *x = x_.data(), *h = h_.data(), *q = q_.data(), *gate = gate_.data(), *up = up_.data();
  const auto linear = [&](Slot slot, float* y) { return Linear{&w[slot], linear_id(i, slot), y, false}; };
  const auto normed = [&](const NormWeight& norm) -> const float* {
    if (!c.pre_norm) return x;
    b.norm(c, x, norm, m, c.n_embd, h);
    return h;
  };
  const auto add_to_stream = [&](Slot slot, const float* in, const NormWeight& post) {
    if (c.post_norm) {
      b.linear({linear(slot, y_.data())}, in, m, groups);
      b.norm_add(c, y_.data(), post, m, c.n_embd, x);
      return;
    }
    b.linear({{&w[slot], linear_id(i, slot), x, true, c.residual_scale}}, in, m, groups);
    if (c.sum_norm) b.norm(c, x, post, m, c.n_embd, x);
  };

  const float* in = normed(layer.attn_norm);
  QkvRows qkv{q, k_.data(), v_.data(), size_t(c.q_dim()), size_t(c.kv_dim())};
  b.expect(w[kO]);
  if (c.fused_qkv) {
    const size_t ld = size_t(c.q_dim() + 2 * c.kv_dim());
    qkv = {q, q + c.q_dim(), q + c.q_dim() + c.kv_dim(), ld, ld};
    b.linear({linear(kQ, q)}, in, m, groups);
  } else {
    b.linear({linear(kQ, q), linear(kK, k_.data()), linear(kV, v_.data())}, in, m, groups);
  }
  const size_t rope = static_cast<size_t>(c.layers[static_cast<size_t>(i)].rope);
  const bool rotates = c.layers[static_cast<size_t>(i)].rope >= 0;
  b.rope_store(c, kv_, i, places, qkv, layer.q_norm, layer.k_norm,
               rotates ? Rotation{cos_[rope].data(), sin_[rope].data()} : Rotation{nullptr, nullptr});
  float* heads = c.parallel ? heads_.data() : h;
  b.attention(c, kv_, i, places, qkv.q, qkv.ldq, heads);
  const bool gate_alone = c.gated && !c.fused_gate_up;
  b.expect(w[gate_alone ? kGate : kUp]);
  add_to_stream(kO, heads, layer.attn_post_norm);

  if (!c.parallel) in = normed(layer.ffn_norm);
  b.expect(w[kDown]);
  if (c.fused_gate_up) {
    b.linear({linear(kUp, up)}, in, m, groups);
    b.activate(c, up, up + c.n_ff, 2 * size_t(c.n_ff), m, c.n_ff, gate);
  } else if (gate_alone) {
    b.linear({linear(kGate, gate), linear(kUp, up)}, in, m, groups);
    b.activate(c, gate, up, size_t(c.n_ff), m, c.n_ff, gate);
  } else {
    b.linear({linear(kUp, gate)}, in, m, groups);
    b.activate(c, gate, nullptr, size_t(c.n_ff), m, c.n_ff, gate);
  }
  b.expect(i + 1 < c.n_layer ? layers_[size_t(i) + 1].linears[kQ] : output_);
  add_to_stream(kDown, gate, layer.ffn_post_norm);
}

// Only the rows whose logits are wanted go through the output layer: they are moved to the front of x.
void Model::run_output(const std::vector<Feed>& feeds, const std::vector<Row>& rows, float* all_logits) {
  const Config& c = config_;
  Backend& b = *backend_;
  float *x = x_.data(), *h = h_.data();
  std::vector<int> wanted;
  std::vector<RowGroup> wanted_groups;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!all_logits && !rows[i].kept) continue;
    const int at = static_cast<int>(wanted.size());
    const AdapterSet& adapters = feeds[rows[i].feed].sequence->adapters_;
    const Row* before = wanted.empty() ? nullptr : &rows[size_t(wanted.back())];
    if (!before || rows[i].feed != before->feed || starts_between(adapters, before->position, rows[i].position))
      wanted_groups.push_back({at, at, &adapters, rows[i].position});
    wanted_groups.back().end = at + 1;
    wanted.push_back(static_cast<int>(i));
  }
  if (wanted.empty()) return;
  const int m = static_cast<int>(wanted.size());
  const size_t n_vocab = static_cast<size_t>(c.n_vocab);
  const bool in_place = all_logits && b.is_host();
  float* logits = in_place ? all_logits : logits_.grow(wanted.size() * n_vocab);
  b.take_rows(x, wanted, c.n_embd, x);
  b.norm(c, x, output_norm_, m, c.n_embd, h);
  b.expect(layers_[0].linears[kQ]);  // the next token's
  b.linear({{&output_, output_id(c), logits, false}}, h, m, wanted_groups);
  if (c.logit_scale != 1.0f) b.scale(logits, c.logit_scale, m, c.n_vocab);
  if (c.logit_cap > 0.0f) b.soft_cap(logits, c.logit_cap, m, c.n_vocab);
  std::vector<Likeliest> likeliest(wanted.size());
  if (!all_logits) {
    std::vector<Likeliest> found = b.likeliest(logits, m, c.n_vocab);
    if (!found.empty()) likeliest = std::move(found);
  } else if (!in_place) {
    b.read(all_logits, logits, wanted.size() * n_vocab * sizeof(float));
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Row& row = rows[size_t(wanted[i])];
    if (!row.kept) continue;
    feeds[row.feed].sequence->logits_.push(logits + i * n_vocab, std::move(likeliest[i]));
  }
}

}  // namespace lora_edge
