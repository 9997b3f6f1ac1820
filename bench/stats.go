package main

import "slices"

// stat is the median of several measurements, with the least and the largest.
type stat struct{ median, min, max float64 }

// statOf returns the zero stat for no values.
func statOf(values []float64) stat {
	if len(values) == 0 {
		return stat{}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return stat{mid, v[0], v[len(v)-1]}
}

// percentile returns the value that a part of the values do not exceed.
func percentile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Clone(values)
	slices.Sort(v)
	return v[min(int(part*float64(len(v))), len(v)-1)]
}

// spread is how far the extremes are from the median, the farther one, as a
// part of it.
func (s stat) spread() float64 {
	if s.median == 0 {
		return 0
	}
	return max(s.max-s.median, s.median-s.min) / s.median
}

// ratio is a/b, and 0, which means unknown, where either is missing.
func ratio(a, b float64) float64 {
	if a == 0 || b == 0 {
		return 0
	}
	return a / b
}

// sample is what one process measured.
type sample struct {
	N         int       `json:"n"` // messages
	Seconds   float64   `json:"seconds"`
	CPU       float64   `json:"cpu_ns"` // user and system, of the process
	Allocs    uint64    `json:"allocs"`
	NoAllocs  bool      `json:"no_allocs,omitempty"` // Allocs is not known
	WarmUp    int       `json:"warm_up,omitempty"`   // messages published to the stream before, as a warm-up
	Latencies []float64 `json:"latencies_ms,omitempty"`
	RSS       float64   `json:"rss_mib,omitempty"`  // the largest seen; unknown without /proc
	Heap      float64   `json:"heap_mib,omitempty"` // the largest seen

	LiveHeap float64 `json:"live_heap_mib,omitempty"` // the most that a garbage collection left
	MaxHeap  float64 `json:"max_heap_mib,omitempty"`  // the most, garbage included
	HeldHeap float64 `json:"held_heap_mib,omitempty"` // what handlers that do not return keep alive

	// Of the case with a filter.
	BytesAll      int64 `json:"bytes_all,omitempty"` // read without the filter
	BytesFiltered int64 `json:"bytes_filtered,omitempty"`

	// Of cases with many consumers.
	Consumers   int     `json:"consumers,omitempty"`
	Connections int     `json:"connections,omitempty"` // to the broker, before the end; unknown without /proc
	First       float64 `json:"first_s,omitempty"`     // from the start to the first message
	AllFirst    float64 `json:"all_first_s,omitempty"` // from the start until each consumer had a message
	End         float64 `json:"end_s,omitempty"`       // from the order to end until all have ended
	NotStored   int     `json:"not_stored,omitempty"`  // ends with ErrNotStored
	WrongMarks  int     `json:"wrong_marks,omitempty"` // stored offsets that are not of the last message
	StoreChunks int     `json:"store_chunks,omitempty"`
	Stores      int     `json:"stores,omitempty"` // in those chunks, and at the end of chunks of messages

	// Of a run, where latencies are measured.
	P50   float64 `json:"p50_ms,omitempty"`
	P99   float64 `json:"p99_ms,omitempty"`
	Worst float64 `json:"worst_ms,omitempty"`

	// Of cases with many producers. Held is heap that is alive, and stacks.
	Producers int     `json:"producers,omitempty"`
	Made      float64 `json:"made_s,omitempty"`        // until all were made
	NewHeld   float64 `json:"new_held_mib,omitempty"`  // by producers that have published nothing
	IdleHeld  float64 `json:"idle_held_mib,omitempty"` // by the same, once all is confirmed
}

// result sums up all samples of one case, size and implementation, for
// printing.
type result struct {
	Case   string `json:"case"`
	Impl   string `json:"impl"`
	Size   int    `json:"size"`
	N      int    `json:"n"`
	Runs   int    `json:"runs"`
	Failed string `json:"failed,omitempty"` // why there are not more runs
	Broker string `json:"broker"`

	Rate    float64  `json:"msgs_per_s"`
	RateMin float64  `json:"msgs_per_s_min"`
	RateMax float64  `json:"msgs_per_s_max"`
	MB      float64  `json:"mb_per_s"` // of bodies, 1e6 bytes
	CPU     float64  `json:"cpu_ns_per_msg"`
	CPUMin  float64  `json:"cpu_ns_per_msg_min"`
	CPUMax  float64  `json:"cpu_ns_per_msg_max"`
	Allocs  *float64 `json:"allocs_per_msg,omitempty"` // nil: unknown

	// Ratios of msgs_per_s in runs that followed each other, the median and the
	// extremes; of latencies the other way round, so that more is better. 0: not
	// measured.
	RatioOfficial    float64 `json:"ratio_official"`
	RatioOfficialMin float64 `json:"ratio_official_min,omitempty"`
	RatioOfficialMax float64 `json:"ratio_official_max,omitempty"`
	RatioSocket      float64 `json:"ratio_socket"`
	RatioSocketMin   float64 `json:"ratio_socket_min,omitempty"`
	RatioSocketMax   float64 `json:"ratio_socket_max,omitempty"`

	// The same, to this library in the program of -before.
	RatioBefore    float64 `json:"ratio_before,omitempty"`
	RatioBeforeMin float64 `json:"ratio_before_min,omitempty"`
	RatioBeforeMax float64 `json:"ratio_before_max,omitempty"`

	// The same, to the Java client.
	RatioJava    float64 `json:"ratio_java,omitempty"`
	RatioJavaMin float64 `json:"ratio_java_min,omitempty"`
	RatioJavaMax float64 `json:"ratio_java_max,omitempty"`

	// Of cases that are compared with another one: its name, and the ratio of
	// msgs_per_s of the same implementation.
	Base         string  `json:"base,omitempty"`
	RatioBase    float64 `json:"ratio_base,omitempty"`
	RatioBaseMin float64 `json:"ratio_base_min,omitempty"`
	RatioBaseMax float64 `json:"ratio_base_max,omitempty"`

	Latency    float64 `json:"latency_ms,omitempty"` // median
	LatencyP99 float64 `json:"latency_ms_p99,omitempty"`
	LatencyMax float64 `json:"latency_ms_max,omitempty"`
	RSS        float64 `json:"rss_mib,omitempty"`
	Heap       float64 `json:"heap_mib,omitempty"`

	// Of a socket that was measured with several: the best one.
	Credit string `json:"credit,omitempty"`
	Window string `json:"window,omitempty"`
	// What the delay of the case is, in milliseconds each way, and what a call
	// takes with it, there and back.
	Delay float64 `json:"delay_ms,omitempty"`
	RTT   float64 `json:"rtt_ms,omitempty"`

	LiveHeap float64 `json:"live_heap_mib,omitempty"` // the most of all runs
	MaxHeap  float64 `json:"max_heap_mib,omitempty"`
	HeldHeap float64 `json:"held_heap_mib,omitempty"`

	// Of the case with a filter; medians.
	BytesAll      int64 `json:"bytes_all,omitempty"`
	BytesFiltered int64 `json:"bytes_filtered,omitempty"`

	// Of cases with many consumers; medians, and sums over all runs of what is
	// wrong.
	Consumers        int     `json:"consumers,omitempty"`
	Connections      int     `json:"connections,omitempty"`
	First            float64 `json:"first_s,omitempty"`
	AllFirst         float64 `json:"all_first_s,omitempty"`
	End              float64 `json:"end_s,omitempty"`
	EndMax           float64 `json:"end_s_max,omitempty"`
	NotStored        int     `json:"not_stored"`
	WrongMarks       int     `json:"wrong_marks"`
	StoreChunks      int     `json:"store_chunks,omitempty"`
	Stores           int     `json:"stores,omitempty"`
	RatioOfficialP99 float64 `json:"ratio_official_p99,omitempty"`
	RatioSocketP99   float64 `json:"ratio_socket_p99,omitempty"`

	// Of cases with many producers; the most of all runs.
	Producers int     `json:"producers,omitempty"`
	Made      float64 `json:"made_s,omitempty"`
	NewHeld   float64 `json:"new_held_mib,omitempty"`
	IdleHeld  float64 `json:"idle_held_mib,omitempty"`

	rates, p50s, p99s []float64 // of each run

	Load *float64 `json:"load,omitempty"` // the machine's, at the end of the last run; unknown without /proc
}

// summarize turns samples into a result without ratios.
func summarize(samples []sample) result {
	var rates, cpus, allocs, latencies, rss, heap []float64
	r := result{Runs: len(samples)}
	for _, s := range samples {
		n := float64(max(s.N, 1))
		r.N = s.N
		if s.Seconds > 0 {
			rates = append(rates, n/s.Seconds)
		}
		cpus = append(cpus, s.CPU/n)
		if !s.NoAllocs {
			allocs = append(allocs, float64(s.Allocs)/n)
		}
		latencies = append(latencies, s.Latencies...)
		rss, heap = append(rss, s.RSS), append(heap, s.Heap)
	}
	r.rates = rates
	rate, cpu, latency := statOf(rates), statOf(cpus), statOf(latencies)
	r.Rate, r.RateMin, r.RateMax = rate.median, rate.min, rate.max
	r.CPU, r.CPUMin, r.CPUMax = cpu.median, cpu.min, cpu.max
	if len(allocs) > 0 {
		median := statOf(allocs).median
		r.Allocs = &median
	}
	r.Latency, r.LatencyMax = latency.median, latency.max
	r.LatencyP99 = percentile(latencies, 0.99)
	r.RSS, r.Heap = statOf(rss).max, statOf(heap).max
	r.summarizeCrowd(samples)
	return r
}

// summarizeCrowd fills in what cases with many consumers or producers measure,
// and the heap.
func (r *result) summarizeCrowd(samples []sample) {
	column := func(get func(sample) float64) stat {
		var list []float64
		for _, s := range samples {
			list = append(list, get(s))
		}
		return statOf(list)
	}
	r.LiveHeap = column(func(s sample) float64 { return s.LiveHeap }).max
	r.MaxHeap = column(func(s sample) float64 { return s.MaxHeap }).max
	r.HeldHeap = column(func(s sample) float64 { return s.HeldHeap }).max
	r.BytesAll = int64(column(func(s sample) float64 { return float64(s.BytesAll) }).median)
	r.BytesFiltered = int64(column(func(s sample) float64 { return float64(s.BytesFiltered) }).median)
	r.First = column(func(s sample) float64 { return s.First }).median
	r.AllFirst = column(func(s sample) float64 { return s.AllFirst }).median
	end := column(func(s sample) float64 { return s.End })
	r.End, r.EndMax = end.median, end.max
	r.StoreChunks = int(column(func(s sample) float64 { return float64(s.StoreChunks) }).median)
	r.Stores = int(column(func(s sample) float64 { return float64(s.Stores) }).median)
	r.Made = column(func(s sample) float64 { return s.Made }).max
	r.NewHeld = column(func(s sample) float64 { return s.NewHeld }).max
	r.IdleHeld = column(func(s sample) float64 { return s.IdleHeld }).max
	for _, s := range samples {
		r.Producers = s.Producers
		r.Consumers, r.Connections = s.Consumers, max(r.Connections, s.Connections)
		r.NotStored += s.NotStored
		r.WrongMarks += s.WrongMarks
		if s.P50 > 0 {
			r.p50s, r.p99s = append(r.p50s, s.P50), append(r.p99s, s.P99)
		}
	}
	if len(r.p50s) > 0 { // each run has percentiles of its own
		r.Latency, r.LatencyP99 = statOf(r.p50s).median, statOf(r.p99s).median
		r.LatencyMax = column(func(s sample) float64 { return s.Worst }).max
	}
}

// pairedRatio is the median of a[i]/b[i], of runs that took turns, and its
// extremes.
func pairedRatio(a, b []float64) stat {
	var list []float64
	for i := range min(len(a), len(b)) {
		if r := ratio(a[i], b[i]); r > 0 {
			list = append(list, r)
		}
	}
	return statOf(list)
}

// setRatios fills in the ratios of the results of one case and size.
func setRatios(results []result) {
	find := func(impl string) (r result) {
		if i := slices.IndexFunc(results, func(r result) bool { return r.Impl == impl }); i >= 0 {
			r = results[i]
		}
		return r
	}
	official, socket, before, java := find(implOfficial), find(implSocket), find(implBefore), find(implJava)
	for i := range results {
		r := &results[i]
		switch {
		case len(r.p50s) > 0:
			r.setRatio(pairedRatio(official.p50s, r.p50s), pairedRatio(socket.p50s, r.p50s), pairedRatio(before.p50s, r.p50s), pairedRatio(java.p50s, r.p50s))
			r.RatioOfficialP99, r.RatioSocketP99 = pairedRatio(official.p99s, r.p99s).median, pairedRatio(socket.p99s, r.p99s).median
		case r.Latency > 0:
			r.RatioOfficialP99, r.RatioSocketP99 = ratio(official.LatencyP99, r.LatencyP99), ratio(socket.LatencyP99, r.LatencyP99)
			r.RatioOfficial, r.RatioSocket = ratio(official.Latency, r.Latency), ratio(socket.Latency, r.Latency)
		default:
			r.setRatio(pairedRatio(r.rates, official.rates), pairedRatio(r.rates, socket.rates), pairedRatio(r.rates, before.rates), pairedRatio(r.rates, java.rates))
		}
	}
}

func (r *result) setRatio(official, socket, before, java stat) {
	r.RatioJava, r.RatioJavaMin, r.RatioJavaMax = java.median, java.min, java.max
	r.RatioBefore, r.RatioBeforeMin, r.RatioBeforeMax = before.median, before.min, before.max
	r.RatioOfficial, r.RatioOfficialMin, r.RatioOfficialMax = official.median, official.min, official.max
	r.RatioSocket, r.RatioSocketMin, r.RatioSocketMax = socket.median, socket.min, socket.max
}

// setBase fills in the ratios to the results of another case, by whose name they
// are called. Both have the same implementations.
func setBase(results, base []result, name string) {
	for i := range results {
		s := pairedRatio(results[i].rates, base[i].rates)
		results[i].Base, results[i].RatioBase, results[i].RatioBaseMin, results[i].RatioBaseMax = name, s.median, s.min, s.max
	}
}
