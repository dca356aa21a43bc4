# What an operator gets: make install, uninstall, deb, and the tests of them in a booted system.
SYSCONFDIR ?= /etc
UNITS      := tv3sd.service tv3sd-http.socket tv3sd-ws.socket
VERSION    := $(shell sed -n 's/.*TV3S_VERSION "\(.*\)"/\1/p' base/version.h)
DEB_VERSION ?= $(VERSION)
ARCH        = $(shell dpkg --print-architecture)
DEB         = $(BUILD)/tv3sd_$(DEB_VERSION)_$(ARCH).deb
DEPS_DEB   := $(DEPS_BUILD) debhelper dpkg-dev fakeroot lintian
# CLIENT=0: less tv3s-client, as in the images.
CLIENT     ?= 1
PROGRAMS    = $(BUILD)/tv3s $(DAEMON) $(if $(filter-out 0,$(CLIENT)),$(BUILD)/tv3s-client)

# Where things lie in the installed system, and where they are put now.
BINDIR   = $(PREFIX)/bin
SHARE    = $(PREFIX)/share/tv3sd
DOCDIR   = $(PREFIX)/share/doc/tv3sd
UNITDIR  = $(PREFIX)/lib/systemd/system
CONFDIR  = $(SYSCONFDIR)/tv3sd
INCDIR   = $(PREFIX)/include
LIBDIR   = $(PREFIX)/lib
PATHS    = sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@DOCDIR@|$(DOCDIR)|g' -e 's|@CONFDIR@|$(CONFDIR)|g'

# Documents, clients and examples lie below DOCDIR as they lie here, so that links between them hold.
DOC_FILES = README.md CHANGES.md $(wildcard docs/*) proto/openapi.json $(wildcard proto/*.md) \
    systemd/cpu.conf systemd/cuda.conf \
    $(shell find -L clients/python clients/js clients/c/README.md clients/c/tv3s_client.h \
    deploy/*.conf deploy/*.cfg deploy/*.yaml deploy/prometheus deploy/grafana deploy/helm \
    -type f ! -empty ! -name '*.pyc' ! -path '*.egg-info/*')

.PHONY: install install-files uninstall deb deps-deb

# Settings that are there stay. The web page is inside the daemon.
install: all $(if $(filter-out 0,$(CLIENT)),client) install-files ## all that runs, units, model, docs, clients, settings in SYSCONFDIR (/etc); DESTDIR= PREFIX= SYSCONFDIR=
install-files:
	install -d $(addprefix $(DESTDIR),$(BINDIR) $(SHARE)/models $(SHARE)/systemd $(DOCDIR)/config \
	    $(UNITDIR)/tv3sd.service.d $(CONFDIR))
	install -d -m 700 $(DESTDIR)$(CONFDIR)/credentials
	install -m 755 $(PROGRAMS) $(DESTDIR)$(BINDIR)
	install -m 644 models/street.safetensors models/street.mp4 models/README.md \
	    $(DESTDIR)$(SHARE)/models
	install -m 644 systemd/cpu.conf systemd/cuda.conf $(DESTDIR)$(SHARE)/systemd
	install -m 644 $(if $(filter-out 0,$(CUDA)),systemd/cuda.conf,systemd/cpu.conf) \
	    $(DESTDIR)$(UNITDIR)/tv3sd.service.d/device.conf
	for f in $(UNITS); do $(PATHS) systemd/$$f > $(DESTDIR)$(UNITDIR)/$$f && \
	    chmod 644 $(DESTDIR)$(UNITDIR)/$$f || exit 1; done
	for f in $(DOC_FILES); do install -D -m 644 $$f $(DESTDIR)$(DOCDIR)/$$f || exit 1; done
ifneq ($(CLIENT),0)
	install -D -m 644 clients/c/tv3s_client.h $(DESTDIR)$(INCDIR)/tv3s_client.h
	install -D -m 644 $(LIB_CLIENT) $(DESTDIR)$(LIBDIR)/libtv3s_client.a
endif
	sed -e 's|"models/|"$(SHARE)/models/|' -e 's|"/tmp/tv3sd"|"/var/lib/tv3sd"|' \
	    config/tv3sd.json > $(DESTDIR)$(DOCDIR)/config/tv3sd.json
	[ -e $(DESTDIR)$(CONFDIR)/tv3sd.json ] || \
	    install -m 644 $(DESTDIR)$(DOCDIR)/config/tv3sd.json $(DESTDIR)$(CONFDIR)/tv3sd.json
	@echo 'settings: $(CONFDIR)/tv3sd.json; start it as $(BINDIR)/tv3sd --config $(CONFDIR)/tv3sd.json'

uninstall: ## what make install put there, but for settings and the spool
	rm -f $(addprefix $(DESTDIR),$(addprefix $(BINDIR)/,tv3s tv3sd tv3s-client) \
	    $(addprefix $(UNITDIR)/,$(UNITS)) $(INCDIR)/tv3s_client.h $(LIBDIR)/libtv3s_client.a)
	rm -rf $(addprefix $(DESTDIR),$(SHARE) $(DOCDIR) $(UNITDIR)/tv3sd.service.d)

deb: deps-deb ## a Debian package, BUILD/tv3sd_VERSION_ARCH.deb
	+@$(MAKE) --no-print-directory all client
	rm -rf $(BUILD)/deb && mkdir -p $(BUILD)/deb && cp -r deploy/debian $(BUILD)/deb/debian
	{ echo 'tv3sd ($(DEB_VERSION)) unstable; urgency=medium'; echo; echo '  * See CHANGES.md.'; \
	    echo; echo ' -- tv3sd <tv3sd@localhost>  $(shell git log -1 --format=%cD 2>/dev/null || \
	    date -R)'; } > $(BUILD)/deb/debian/changelog
	cd $(BUILD)/deb && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL TOP=$(CURDIR) OBJECTS=$(abspath $(BUILD)) \
	    CUDA=$(CUDA) fakeroot debian/rules binary
	lintian --fail-on error,warning --suppress-tags-from-file deploy/debian/lintian-known $(DEB)
deps-deb:
	$(call install_missing,$(DEPS_DEB))

# ---- tests that need a whole Debian: minutes, and root ------------------------------------------
DEPS_SYSTEM := $(DEPS_DEB) debootstrap systemd-container
.PHONY: system-test deps-system

$(BUILD)/base.tar:
	rm -rf $(BUILD)/base && mkdir -p $(@D)
	debootstrap --variant=minbase bookworm $(BUILD)/base > $(BUILD)/base.log || \
	    { tail $(BUILD)/base.log; exit 1; }
	chroot $(BUILD)/base apt-get clean
	tar -C $(BUILD)/base -cf $@.part . && mv $@.part $@ && rm -rf $(BUILD)/base

system-test: deps-system ## the Debian package in a booted system: install, upgrade, sockets, purge
	+@$(MAKE) --no-print-directory deb
	+@$(MAKE) --no-print-directory deb DEB_VERSION=$(VERSION)+next
	+@$(MAKE) --no-print-directory $(BUILD)/base.tar
	sh tests/system/boot.sh $(BUILD)/base.tar $(BUILD)/tv3sd_$(VERSION)_$(ARCH).deb \
	    $(BUILD)/tv3sd_$(VERSION)+next_$(ARCH).deb
deps-system:
	$(call install_missing,$(DEPS_SYSTEM))

# Envoy is not in Debian, and so not in the tests: its file is held against its definitions, which the
# npm package of gRPC's xDS client carries. What that has of protoc-gen-validate lacks a field.
ENVOY_API   := @grpc/grpc-js-xds@1.14.1
DEPS_ENVOY  := protobuf-compiler libprotobuf-dev python3-protobuf python3-yaml
.PHONY: envoy-check
envoy-check: ## deploy/envoy.yaml against Envoy's own definitions, which npm brings
	$(call install_missing,$(DEPS_ENVOY))
	[ -d $(BUILD)/envoy/package ] || { mkdir -p $(BUILD)/envoy && cd $(BUILD)/envoy && \
	    npm pack --silent $(ENVOY_API) && tar -xzf *.tgz package/deps && rm *.tgz && \
	    sed -i '/^message StringRules {/a optional bool ignore_empty = 26;' \
	        package/deps/protoc-gen-validate/validate/validate.proto; }
	$(PYTHON) tests/envoy_schema.py deploy/envoy.yaml $(BUILD)/envoy/package/deps/*

# No registry is asked: the base is Debian by debootstrap, less what its slim image leaves out.
DEPS_IMAGE := debootstrap buildah curl
BUILDAH    := buildah --root $(abspath $(BUILD))/buildah --runroot $(abspath $(BUILD))/buildah.run
.PHONY: image image-test deps-image
image: deps-image $(BUILD)/base.tar ## the image tv3sd:cpu, in BUILD/buildah
	BUILDAH='$(BUILDAH)' sh tests/system/base_image.sh $(BUILD)/base.tar
	$(BUILDAH) build --isolation=chroot --format=docker --layers --target=cpu \
	    --build-arg=BASE=localhost/tv3sd-base --build-arg=VERSION=$(VERSION) --tag=tv3sd:cpu .

# For a machine that has the toolkit in CUDA_HOME, and no registry.
.PHONY: image-cuda
image-cuda: deps-image $(BUILD)/base.tar ## the image tv3sd:cuda by this machine's CUDA toolkit, in BUILD/buildah
	BUILDAH='$(BUILDAH)' sh tests/system/base_image.sh $(BUILD)/base.tar
	BUILDAH='$(BUILDAH)' sh tests/system/toolkit_image.sh $(or $(CUDA_HOME),/usr/local/cuda)
	$(BUILDAH) build --isolation=chroot --format=docker --layers --target=cuda \
	    --build-arg=BASE=localhost/tv3sd-base --build-arg=CUDA_IMAGE=localhost/tv3sd-toolkit \
	    --build-arg=VERSION=$(VERSION) --tag=tv3sd:cuda .

image-test: image ## the cpu image: its size, and run as a container is, on a read-only root
	BUILDAH='$(BUILDAH)' sh tests/system/image.sh
DEPS_COMPOSE := nginx-light prometheus redis-server iproute2 python3-yaml curl
.PHONY: compose-test
compose-test: image ## deploy/compose.yaml's services, less Grafana, as processes set up as it says
	$(call install_missing,$(DEPS_COMPOSE))
	+@$(MAKE) --no-print-directory all client
	BUILDAH='$(BUILDAH)' $(PYTHON) tests/system/compose.py deploy/compose.yaml
deps-image:
	$(call install_missing,$(DEPS_IMAGE))
