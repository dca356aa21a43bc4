# tv3sd: build, test, install.
#
#   make demo       installs what is missing, builds, labels the bundled clip before your eyes
#   make            build/tv3s and build/tv3sd
#   make test       everything; installs what Debian packages are missing first
#   make help       the other targets; V=1 shows the commands
#
# Sources are found by wildcard, folder by folder. Four archives keep the layers apart:
#   libtv3s_engine.a  base engine kernels   needs no FFmpeg and no network library
#   libtv3s_proto.a   proto                 mask formats, keys: + libspng, libcrypto
#   libtv3s_media.a   media                 + FFmpeg
#   libtv3s_server.a  server, sandbox       + libmicrohttpd, libwebsockets, libseccomp; no main.c
# Kernels compiled once per instruction set come from kernels/cpu/kernels.mk, which names their
# sources in KERNEL_SIMD_SRCS and gives objects and rules in KERNEL_SIMD_OBJS.

BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
SIMD    ?= 1
CUDA    ?= 0
SANITIZE ?=
PYTHON  ?= /usr/bin/python3
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
DEMO_PORT ?= 8080
PYTEST  ?= tests reference/test_reference.py
Q       := $(if $(V),,@)
NPROC   := $(shell nproc)

DEPS_BUILD := gcc make pkg-config libc6-dev libdnnl-dev libjansson-dev libzip-dev libspng-dev \
	libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libmicrohttpd-dev \
	libwebsockets-dev zlib1g-dev libsqlite3-dev libgnutls28-dev libssl-dev libseccomp-dev \
	libcurl4-gnutls-dev libhiredis-dev
DEPS_TEST  := $(DEPS_BUILD) g++ libcmocka-dev python3 python3-pytest python3-pytest-timeout python3-pytest-xdist \
	python3-numpy python3-torch libopenblas0-pthread python3-pil python3-websockets python3-selenium \
	python3-prometheus-client python3-jsonschema chromium chromium-driver ffmpeg curl openssl systemd nginx-light haproxy \
	prometheus docker-compose python3-yaml lua5.1 iproute2 redis-server stunnel4 \
	python3-kubernetes golang-go golang-github-masterminds-sprig-dev golang-k8s-sigs-yaml-dev jq \
	libffmpeg-nvenc-dev vpx-tools
DEPS_DEMO  := $(DEPS_BUILD) curl
DEPS_FUZZ  := $(DEPS_BUILD) clang libomp-dev libclang-rt-14-dev
DEPS_LINT  := $(DEPS_BUILD) clang clang-format clang-tidy cppcheck libomp-dev \
	libcmocka-dev mypy python3-websockets libffmpeg-nvenc-dev

STD     := -std=c11 -D_GNU_SOURCE
OPT     ?= -O2 -g
OPENMP  := -fopenmp
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Werror=implicit-function-declaration -Werror=incompatible-pointer-types \
	-Werror=int-conversion -Werror=return-type
SANFLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
ifneq ($(findstring undefined,$(SANITIZE)),)
SANFLAGS += -fno-sanitize-recover=undefined
endif
ALL_CFLAGS = $(STD) $(OPT) $(OPENMP) $(WARN) $(SANFLAGS) -I. -MMD -MP $(CPPFLAGS) $(CFLAGS)
ifeq ($(SIMD),0)
CPPFLAGS += -DTV3S_NO_SIMD
endif

FFMPEG_PKGS := libavformat libavcodec libavutil libswscale
ENGINE_LIBS := -ldnnl -ljansson -lzip -lm -lpthread
PROTO_LIBS   = $(shell pkg-config --libs spng libcrypto) -ljansson
MEDIA_LIBS   = $(shell pkg-config --libs $(FFMPEG_PKGS))
CLIENT_LIBS  = $(shell pkg-config --libs libcurl libwebsockets jansson) -lm
SERVER_LIBS  = $(shell pkg-config --libs libmicrohttpd libwebsockets zlib sqlite3 gnutls openssl \
	libseccomp libcurl hiredis)

.PHONY: all client libs-client engine demo deps deps-demo deps-fuzz deps-lint test unit pytest \
	asan tsan chaos faults oom fuzz fuzz-build bench bench-kernels bench-keys lint format clean help \
	libs-engine libs-media libs-server cuda-check force load soak gpu-bundle
.DEFAULT_GOAL := all
.SECONDARY:

# ---- sources ------------------------------------------------------------------------------------
c_files = $(foreach d,$(1),$(wildcard $(d)/*.c))
to_obj  = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

-include kernels/cpu/kernels.mk
ifneq ($(CUDA),0)
include kernels/cuda/cuda.mk
endif

ENGINE_SRCS := $(filter-out $(KERNEL_SIMD_SRCS),$(call c_files,base engine engine/import kernels \
	kernels/cpu))
ifneq ($(CUDA),0)
ENGINE_SRCS := $(filter-out kernels/no_cuda.c kernels/no_device_memory.c,$(ENGINE_SRCS))
ENGINE_LIBS += $(CUDA_LIBS)
endif
PROTO_SRCS  := $(call c_files,proto)
MEDIA_SRCS  := $(call c_files,media)
CLIENT_SRCS := $(call c_files,clients/c) base/buf.c base/err.c base/outfile.c proto/message.c \
	proto/mask_format.c
TOOL_SRCS   := $(call c_files,tools)
SERVER_SRCS := $(filter-out server/main.c,$(call c_files,server sandbox))
TEST_SRCS   := $(call c_files,tests/unit)
FUZZ_SRCS   := $(call c_files,tests/fuzz)

LIB_ENGINE := $(BUILD)/libtv3s_engine.a
LIB_PROTO  := $(BUILD)/libtv3s_proto.a
LIB_MEDIA  := $(BUILD)/libtv3s_media.a
LIB_CLIENT := $(BUILD)/libtv3s_client.a
LIB_SERVER := $(BUILD)/libtv3s_server.a
DAEMON     := $(if $(wildcard server/main.c),$(BUILD)/tv3sd)
TESTS      := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(TEST_SRCS))
FUZZERS    := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_SRCS))

# ---- build --------------------------------------------------------------------------------------
all: cuda-check libs-engine libs-media $(BUILD)/tv3s $(DAEMON)

engine: libs-engine $(LIB_ENGINE) ## the engine alone: no FFmpeg, no network library

# One plain sentence instead of a page of compiler errors.
define need_header
	@echo '#include <$(1)>' | $(CC) -E -o /dev/null - 2>/dev/null || \
	    { echo "missing $(1): apt-get install $(2), or run 'make deps'" >&2; exit 1; }
endef
libs-engine:
	$(call need_header,dnnl.h,libdnnl-dev)
	$(call need_header,jansson.h,libjansson-dev)
	$(call need_header,zip.h,libzip-dev)
libs-media: libs-engine
	$(call need_header,spng.h,libspng-dev)
	$(call need_header,openssl/evp.h,libssl-dev)
	$(call need_header,libavformat/avformat.h,libavformat-dev)
	$(call need_header,libswscale/swscale.h,libswscale-dev)
libs-server: libs-media
	$(call need_header,microhttpd.h,libmicrohttpd-dev)
	$(call need_header,libwebsockets.h,libwebsockets-dev)
	$(call need_header,zlib.h,zlib1g-dev)
	$(call need_header,sqlite3.h,libsqlite3-dev)
	$(call need_header,gnutls/gnutls.h,libgnutls28-dev)
	$(call need_header,seccomp.h,libseccomp-dev)
	$(call need_header,curl/curl.h,libcurl4-gnutls-dev)
	$(call need_header,hiredis/hiredis.h,libhiredis-dev)

# Objects depend on the flags they were compiled with.
$(BUILD)/flags: force
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS) CUDA=$(CUDA)' | cmp -s - $@ || \
	    echo '$(CC) $(ALL_CFLAGS) CUDA=$(CUDA)' > $@
force:

$(BUILD)/obj/%.o: %.c $(BUILD)/flags | libs-engine
	@mkdir -p $(@D)
	@echo '  CC $<'
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

define archive
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
endef
$(LIB_ENGINE): $(call to_obj,$(ENGINE_SRCS)) $(KERNEL_SIMD_OBJS) $(CUDA_OBJS)
	$(archive)
$(LIB_PROTO): $(call to_obj,$(PROTO_SRCS))
	$(archive)
$(LIB_MEDIA): $(call to_obj,$(MEDIA_SRCS))
	$(archive)

$(LIB_SERVER): $(call to_obj,$(SERVER_SRCS))
	$(archive)
$(BUILD)/obj/server/assets.o: proto/openapi.json $(wildcard clients/web/* clients/js/*) # inside it
$(BUILD)/obj/sandbox/device_clip.o: sandbox/device_clip.mp4

$(BUILD)/tv3s: $(call to_obj,$(TOOL_SRCS)) $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(MEDIA_LIBS) $(PROTO_LIBS) $(ENGINE_LIBS)

$(BUILD)/tv3sd: $(BUILD)/obj/server/main.o $(LIB_SERVER) $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE) \
		| libs-server
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(SERVER_LIBS) $(MEDIA_LIBS) $(PROTO_LIBS) \
	    $(ENGINE_LIBS)

$(LIB_CLIENT): $(call to_obj,$(CLIENT_SRCS))
	$(archive)
libs-client: libs-media
	$(call need_header,curl/curl.h,libcurl4-gnutls-dev)
	$(call need_header,libwebsockets.h,libwebsockets-dev)
client: libs-client $(BUILD)/tv3s-client ## the C client: clients/c
$(BUILD)/tv3s-client: $(call to_obj,$(call c_files,clients/c/cli)) $(LIB_CLIENT) $(LIB_MEDIA) \
		$(LIB_PROTO) $(LIB_ENGINE)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS) $(MEDIA_LIBS) $(PROTO_LIBS) \
	    $(ENGINE_LIBS)

demo: deps-demo ## the daemon with the bundled clip sent through it, and where to look
	+@$(MAKE) --no-print-directory -j$(NPROC) all
	@$(RUN_ENV) sh tools/demo.sh $(BUILD) $(DEMO_PORT)

# ---- unit tests: tests/unit/test_X.c ------------------------------------------------------------
# Those named test_media_*.c link FFmpeg, test_server_*.c all there is, test_cuda_*.c the CUDA kernels
# built for the host, the others nothing of these.
$(BUILD)/tests/test_server_%: $(BUILD)/obj/tests/unit/test_server_%.o $(LIB_SERVER) $(LIB_MEDIA) \
		$(LIB_PROTO) $(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(SERVER_LIBS) $(MEDIA_LIBS) \
	    $(PROTO_LIBS) $(ENGINE_LIBS)
$(BUILD)/tests/test_media_%: $(BUILD)/obj/tests/unit/test_media_%.o $(LIB_MEDIA) $(LIB_PROTO) \
		$(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(MEDIA_LIBS) $(PROTO_LIBS) \
	    $(ENGINE_LIBS)
$(BUILD)/tests/test_%: $(BUILD)/obj/tests/unit/test_%.o $(LIB_PROTO) $(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) \
	    -lcmocka $(PROTO_LIBS) $(ENGINE_LIBS)
include tests/cuda_host/cuda_host.mk
# What they test of tools/, which is in no archive.
$(BUILD)/tests/test_metrics: $(BUILD)/obj/tools/metrics.o
$(BUILD)/tests/test_npy: $(BUILD)/obj/tools/npy.o
$(BUILD)/tests/test_options: $(BUILD)/obj/tools/options.o

test: deps ## build and run every test
	+@$(MAKE) --no-print-directory -j$(NPROC) all unit
	+@$(MAKE) --no-print-directory pytest

# Many short parallel regions on a machine that may be busy: threads that spin while they wait cost
# ten times the tests' own time there.
unit pytest chaos oom: export OMP_WAIT_POLICY ?= passive

unit: $(TESTS) ## the C tests alone
	+@$(MAKE) --no-print-directory -k $(TESTS:=.run)
	@echo "unit tests: all $(words $(TESTS)) programs passed"

.PHONY: $(TESTS:=.run)
$(TESTS:=.run): %.run: %
	@if $(RUN_ENV) $< > $<.log 2>&1; then tail -n 1 $<.log | sed 's|^|$(notdir $<): |'; \
	else cat $<.log; echo "FAILED: $(notdir $<)" >&2; exit 1; fi

# A test that hangs fails with what every thread of it did then. So long takes none, on any machine.
PYTEST_SECONDS := $(if $(SANITIZE),2400,600)
# Most tests wait for a daemon more than they compute, so there is one process more than cores: the
# whole took 954 s by one on two cores, and 636 by three while others used the machine too. The tests
# of a file share daemons and stay together.
PYTEST_PROCESSES ?= $(shell expr $(NPROC) + 1)

pytest: $(BUILD)/tv3s $(BUILD)/tv3s-client $(DAEMON) $(CUDA_HOST_DAEMON) $(CUDA_HOST_TOOL) $(CUDA_HOST_FRAMES) $(BUILD)/load/stream_load ## the Python tests alone; PYTEST=tests/test_X.py for one
	TV3S_BUILD=$(abspath $(BUILD)) $(RUN_ENV) $(PYTHON) -m pytest -q -p no:cacheprovider --timeout $(PYTEST_SECONDS) \
	    $(if $(filter tests,$(PYTEST)),-n $(PYTEST_PROCESSES) --dist loadfile) $(PYTEST)

# The Python client stands on a package that has changed much since Debian 12: its tests with those of
# later releases, which this one's Python runs as well.
WEBSOCKETS := trixie forky
WEBSOCKETS_PYTEST := $(patsubst %,tests/test_%.py,client clients tls ws ws_packets handover_clients) \
	$(patsubst %,tests/test_%,access.py::test_the_python_client_has_a_key \
	examples.py::test_python_in_the_clients_readme examples.py::test_python_in_the_readme) \
	-k "not [c and not [js"
$(BUILD)/websockets/%:
	sh tests/newer_websockets.sh $* $@
.PHONY: websockets-test
websockets-test: deps all $(BUILD)/tv3s-client $(BUILD)/load/stream_load ## the Python client with the websockets of newer Debian releases
	+@for release in $(WEBSOCKETS); do $(MAKE) --no-print-directory $(BUILD)/websockets/$$release || exit 1; \
	    PYTHONPATH=$(abspath $(BUILD))/websockets/$$release/usr/lib/python3/dist-packages; export PYTHONPATH; \
	    $(PYTHON) -c 'import websockets.version as w; print("websockets", w.version)' || exit 1; \
	    $(MAKE) --no-print-directory pytest PYTEST='$(WEBSOCKETS_PYTEST)' || exit 1; done

asan: export ASAN_OPTIONS := detect_leaks=1:abort_on_error=1
asan: export UBSAN_OPTIONS := print_stacktrace=1
asan: export LSAN_OPTIONS := suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0
asan: ## the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
	+@$(MAKE) --no-print-directory test BUILD=$(BUILD)/asan SANITIZE=address,undefined OPT='-O1 -g' \
	    PYTEST=$(if $(filter command line,$(origin PYTEST)),'$(PYTEST)',tests)

CHAOS_SECONDS ?= 120
CHAOS_SEED    ?= 1
chaos: export ASAN_OPTIONS := detect_leaks=1:abort_on_error=1
chaos: export UBSAN_OPTIONS := print_stacktrace=1
chaos: export LSAN_OPTIONS := suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0
chaos: deps ## clients killed at random under load, for CHAOS_SECONDS, against the sanitized daemon
	+@$(MAKE) --no-print-directory -j$(NPROC) all BUILD=$(BUILD)/asan SANITIZE=address,undefined \
	    OPT='-O1 -g'
	TV3S_BUILD=$(abspath $(BUILD))/asan $(PYTHON) tests/chaos.py --seconds $(CHAOS_SECONDS) \
	    --seed $(CHAOS_SEED)

oom: export ASAN_OPTIONS := detect_leaks=1
oom: export UBSAN_OPTIONS := print_stacktrace=1
oom: export LSAN_OPTIONS := suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0
oom: deps ## every allocation of the sanitized daemon failed once in turn: an answer, no leak; half an hour
	+@$(MAKE) --no-print-directory -j$(NPROC) all BUILD=$(BUILD)/asan SANITIZE=address,undefined \
	    OPT='-O1 -g'
	TV3S_BUILD=$(abspath $(BUILD))/asan $(PYTHON) tests/oom.py $(OOM_ARGS)

FAULTS      ?= 300
FAULTS_SEED ?= 1
faults: deps all ## FAULTS random faults over a loaded pair of daemons; prints figures as JSON
	TV3S_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/faults.py --faults $(FAULTS) --seed $(FAULTS_SEED)

# libgomp and oneDNN are not instrumented, so ThreadSanitizer cannot see their barriers: the engine
# runs on one thread there, and what OpenMP regions share is suppressed. The threads under test are
# ours: queues, decode, encode.
# Left out is what has no threads of ours and takes long here: arithmetic on the stand-in for CUDA (the
# states alone take five minutes of CPU time; a daemon on it is left out too), models against others'
# figures, `tv3s convert`, `logits` and `eval`, the search through a decoder's memory, which is
# gigabytes here, and a comparison over what memory held. The rest, and more, took 92 minutes on two
# cores with some twenty other processes on them.
TSAN_UNIT := $(filter-out tests/unit/test_cuda_%,$(TEST_SRCS))
TSAN_PYTEST := tests $(patsubst %,--ignore=tests/test_%.py,architectures convert device device_pixels devices docs eval \
	gpu_run logits nvdec parity segment_nvdec streams) \
	--deselect=tests/test_sandbox.py::test_decoders_hold_nothing_of_the_daemons \
	--deselect=tests/test_segment.py::test_the_same_video_gives_the_same_bytes_whatever_memory_held
tsan: export TSAN_OPTIONS := suppressions=$(CURDIR)/tests/tsan.supp:halt_on_error=1:exitcode=66
tsan: export OMP_THREAD_LIMIT := 1
tsan: ## the same tests under ThreadSanitizer
	+@$(MAKE) --no-print-directory test BUILD=$(BUILD)/tsan SANITIZE=thread OPT='-O1 -g' \
	    RUN_ENV='setarch -R' TEST_SRCS='$(TSAN_UNIT)' PYTEST='$(TSAN_PYTEST)'

# ---- fuzzing: tests/fuzz/fuzz_X.c, seeds in tests/fuzz/corpus/X ----------------------------------
$(BUILD)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(LIB_PROTO) $(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(PROTO_LIBS) $(ENGINE_LIBS)

$(BUILD)/fuzz/fuzz_http_headers: $(BUILD)/obj/server/http_headers.o
$(BUILD)/fuzz/fuzz_proxy_header: $(BUILD)/obj/server/proxy_header.o
$(BUILD)/fuzz/fuzz_image_head: $(BUILD)/obj/media/image_head.o
$(BUILD)/fuzz/fuzz_cut: $(BUILD)/obj/media/cut.o
$(BUILD)/fuzz/fuzz_config: $(patsubst %,$(BUILD)/obj/%.o,server/config server/config_load server/config_dump \
	base/nearest)
# These need more of the daemon, such as the handlers that the table of endpoints names.
$(patsubst %,$(BUILD)/fuzz/fuzz_%,target form peer keys sandbox record jobs): $(BUILD)/fuzz/fuzz_%: \
		tests/fuzz/fuzz_%.c $(LIB_SERVER) $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(SERVER_LIBS) $(MEDIA_LIBS) \
	    $(PROTO_LIBS) $(ENGINE_LIBS)

fuzz-build: $(FUZZERS)

# The seed is given, so that who runs it again sees what CI saw; FUZZ_SEED=0 draws one. As many
# targets at a time as there are cores.
FUZZING := --no-print-directory -j$(NPROC) --output-sync=target BUILD=$(BUILD)/fuzzing CC=clang \
	SANITIZE=fuzzer-no-link,address,undefined OPT='-O1 -g'
fuzz: deps-fuzz ## every fuzz target for FUZZ_SECONDS
	+@$(MAKE) $(FUZZING) fuzz-build
	+@$(MAKE) $(FUZZING) $(patsubst tests/fuzz/fuzz_%.c,%.fuzz,$(FUZZ_SRCS))

%.fuzz:
	@mkdir -p $(BUILD)/corpus/$* $(BUILD)/found
	@echo 'fuzz $*, $(FUZZ_SECONDS) s'
	@$(BUILD)/fuzz/fuzz_$* -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_SECONDS) -timeout=25 \
	    -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(BUILD)/found/ \
	    $(BUILD)/corpus/$* $(wildcard tests/fuzz/corpus/$*)

# ---- checks -------------------------------------------------------------------------------------
MODEL ?= models/street.safetensors
bench: all ## frames per second of the model MODEL=
	$(BUILD)/tv3s bench $(MODEL) $(BENCH_ARGS)

bench-kernels: $(BUILD)/kernel_bench $(BUILD)/op_profile ## kernels alone; a frame by operation
	$(BUILD)/kernel_bench
	$(BUILD)/op_profile $(MODEL) --dtype f32
	$(BUILD)/op_profile $(MODEL) --dtype bf16

bench-keys: $(BUILD)/key_bench ## whether the time of a key's lookup tells how much of it was right
	$(BUILD)/key_bench

$(BUILD)/key_bench: $(BUILD)/obj/tests/bench/key_bench.o $(LIB_PROTO) $(LIB_ENGINE)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(PROTO_LIBS) $(ENGINE_LIBS)

OP_PROFILE := $(patsubst %,$(BUILD)/obj/tests/bench/%.o,op_profile op_wrap op_trace \
	$(if $(filter 0,$(CUDA)),op_clock_cpu,op_clock_cuda)) $(BUILD)/obj/tools/options.o
$(BUILD)/obj/tests/bench/op_clock_cuda.o: private CPPFLAGS += -isystem $(CUDA_HOME)/include
$(BUILD)/op_profile: $(OP_PROFILE) $(LIB_ENGINE)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ENGINE_LIBS)

# tests/gpu: for a machine with a GPU and little else.
GPU_BUNDLE ?= $(BUILD)/gpu-bundle.tar.xz
gpu-bundle: ## programs with CUDA and their libraries, for tests/gpu/run.py on another machine
	+@$(MAKE) --no-print-directory -j$(NPROC) all $(BUILD)/cuda/op_profile CUDA=1 BUILD=$(BUILD)/cuda
	sh tests/gpu/bundle.sh $(BUILD)/cuda $(GPU_BUNDLE)

# tests/load: a generator of load in C, so that it leaves the cores to the daemon, and what runs it.
$(BUILD)/load/stream_load: $(call to_obj,$(call c_files,tests/load)) $(LIB_PROTO) $(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CC) $(OPENMP) $(SANFLAGS) $(LDFLAGS) -o $@ $^ -lwebsockets $(PROTO_LIBS) $(ENGINE_LIBS)

load: deps all $(BUILD)/load/stream_load ## the daemon under load; LOAD_ARGS=, writes BUILD/load.json
	TV3S_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/load/load.py --out $(BUILD)/load.json $(LOAD_ARGS)

SOAK_SECONDS ?= 600
soak: deps all $(BUILD)/load/stream_load ## 200 live streams by TLS through nginx for SOAK_SECONDS; writes BUILD/soak.json
	TV3S_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/load/soak.py --seconds $(SOAK_SECONDS) \
	    --out $(BUILD)/soak.json $(SOAK_ARGS)

lint: deps-lint ## formatting, static analysis, layering, file sizes
	@sh tests/lint.sh

format: ## rewrite every C file with clang-format
	git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' | grep -v '^reference/' | xargs clang-format -i

# ---- packages: dpkg is asked first, so this costs nothing when all is there -----------------------
define install_missing
	@missing=; for p in $(1); do \
	    dpkg-query -W -f '$${Status}\n' $$p 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    [ -z "$$sudo" ] || command -v sudo >/dev/null || \
	        { echo "that needs root, and there is no sudo: apt-get install$$missing" >&2; exit 1; }; \
	    $$sudo apt-get update -q && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
	        $$missing; fi
endef
deps: ## install the Debian packages that building and testing need
	$(call install_missing,$(DEPS_TEST))
deps-demo:
	$(call install_missing,$(DEPS_DEMO))
deps-fuzz:
	$(call install_missing,$(DEPS_FUZZ))
deps-lint:
	$(call install_missing,$(DEPS_LINT))

include deploy/install.mk

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
