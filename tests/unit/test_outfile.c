#include "base/outfile.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char root[64];

static int enter(void **state)
{
    (void)state;
    strcpy(root, "/tmp/tv3s_outfile_XXXXXX");
    return mkdtemp(root) && chdir(root) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return chdir("/") != 0 || system(command) != 0;
}

/* Names in a directory, hidden ones included. */
static int files_in(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void assert_content(const char *path, const char *text)
{
    char buf[256] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fread(buf, 1, sizeof buf - 1, f), strlen(text));
    assert_string_equal(buf, text);
    fclose(f);
}

static void a_file_appears_on_commit_only(void **state)
{
    (void)state;
    struct outfile *f;
    assert_int_equal(outfile_open("a", &f), ERR_OK);
    assert_int_equal(outfile_write(f, "hello ", 6), ERR_OK);
    assert_int_equal(outfile_write(f, "world", 5), ERR_OK);
    assert_int_equal(access("a", F_OK), -1);
    assert_int_equal(outfile_write_at(f, 0, "J", 1), ERR_OK);
    assert_int_equal(outfile_size(f), 11);
    assert_int_equal(outfile_commit(f), ERR_OK);
    assert_content("a", "Jello world");
    assert_int_equal(files_in("."), 1);
}

static void an_aborted_file_leaves_the_old_one(void **state)
{
    (void)state;
    struct outfile *f;
    assert_int_equal(outfile_open("a", &f), ERR_OK);
    assert_int_equal(outfile_write(f, "other", 5), ERR_OK);
    outfile_abort(f);
    outfile_abort(NULL);
    assert_content("a", "Jello world");
    assert_int_equal(files_in("."), 1);
}

static void commit_replaces_what_was_there_and_keeps_links(void **state)
{
    (void)state;
    struct outfile *f;
    struct stat st;
    assert_int_equal(symlink("a", "link"), 0);
    assert_int_equal(outfile_open("link", &f), ERR_OK);
    assert_int_equal(outfile_write(f, "new", 3), ERR_OK);
    assert_int_equal(outfile_commit(f), ERR_OK);
    assert_content("a", "new");
    assert_int_equal(lstat("link", &st), 0);
    assert_true(S_ISLNK(st.st_mode));
}

static void a_missing_directory_is_named(void **state)
{
    (void)state;
    struct outfile *f;
    struct outdir *d;
    assert_int_equal(outfile_open("no/such", &f), ERR_IO);
    assert_null(f);
    assert_non_null(strstr(err_text(), "no/such: No such file"));
    assert_int_equal(outfile_open(".", &f), ERR_IO);
    assert_int_equal(outdir_open("no/such", &d), ERR_IO);
    assert_int_equal(outdir_open("a", &d), ERR_IO);
    assert_null(d);
}

static void a_full_device_is_an_error(void **state)
{
    (void)state;
    struct outfile *f;
    char page[4096] = {0};
    assert_int_equal(outfile_open("/dev/full", &f), ERR_OK);
    assert_false(outfile_seekable(f));
    assert_int_equal(outfile_write(f, page, sizeof page), ERR_FULL);
    assert_non_null(strstr(err_text(), "No space left"));
    outfile_abort(f);
    assert_int_equal(access("/dev/full", F_OK), 0);
}

static void a_file_over_the_size_limit_is_removed(void **state)
{
    (void)state;
    struct outfile *f;
    struct rlimit old, tight;
    char page[4096] = {0};
    int before = files_in(".");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(outfile_open("big", &f), ERR_OK);
    getrlimit(RLIMIT_FSIZE, &old);
    tight = (struct rlimit){6000, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
    assert_int_equal(outfile_write(f, page, sizeof page), ERR_OK);
    assert_int_equal(outfile_write(f, page, sizeof page), ERR_IO);
    setrlimit(RLIMIT_FSIZE, &old);
    outfile_abort(f);
    assert_int_equal(files_in("."), before);
}

static void a_directory_appears_on_commit_only(void **state)
{
    (void)state;
    struct outdir *d;
    assert_int_equal(outdir_open("d/", &d), ERR_OK);
    assert_int_equal(outdir_write(d, "1.txt", "one", 3), ERR_OK);
    assert_int_equal(outdir_write(d, "2.txt", "two", 3), ERR_OK);
    assert_int_equal(access("d", F_OK), -1);
    assert_int_equal(outdir_commit(d), ERR_OK);
    assert_content("d/1.txt", "one");
    assert_int_equal(files_in("d"), 2);
}

static void files_move_into_a_directory_that_exists(void **state)
{
    (void)state;
    struct outdir *d;
    assert_int_equal(outdir_open("d", &d), ERR_OK);
    assert_int_equal(outdir_write(d, "2.txt", "zwei", 4), ERR_OK);
    assert_int_equal(outdir_write(d, "3.txt", "drei", 4), ERR_OK);
    assert_content("d/2.txt", "two");
    assert_int_equal(outdir_commit(d), ERR_OK);
    assert_content("d/1.txt", "one");
    assert_content("d/2.txt", "zwei");
    assert_int_equal(files_in("d"), 3);
}

static void an_aborted_directory_leaves_nothing(void **state)
{
    (void)state;
    struct outdir *d;
    int before = files_in(".");
    assert_int_equal(outdir_open("e", &d), ERR_OK);
    assert_int_equal(outdir_write(d, "1.txt", "one", 3), ERR_OK);
    outdir_abort(d);
    assert_int_equal(files_in("."), before);
    assert_int_equal(outdir_open("d", &d), ERR_OK);
    assert_int_equal(outdir_write(d, "4.txt", "four", 4), ERR_OK);
    outdir_abort(d);
    outdir_abort(NULL);
    assert_int_equal(files_in("d"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_appears_on_commit_only),
        cmocka_unit_test(an_aborted_file_leaves_the_old_one),
        cmocka_unit_test(commit_replaces_what_was_there_and_keeps_links),
        cmocka_unit_test(a_missing_directory_is_named),
        cmocka_unit_test(a_full_device_is_an_error),
        cmocka_unit_test(a_file_over_the_size_limit_is_removed),
        cmocka_unit_test(a_directory_appears_on_commit_only),
        cmocka_unit_test(files_move_into_a_directory_that_exists),
        cmocka_unit_test(an_aborted_directory_leaves_nothing),
    };
    return cmocka_run_group_tests_name("outfile", tests, enter, leave);
}
