// render CHART RELEASE NAMESPACE [VALUES.yaml...]: what `helm template` prints of a chart, by what Helm is made of: Go's
// text/template, sprig and sigs.k8s.io/yaml. It knows what deploy/helm asks for, and a value that is not there is an error.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type table = map[string]interface{}

type files struct{ folder string }

func (f files) Get(name string) string { return string(read(filepath.Join(f.folder, name))) }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(path string) []byte {
	text, err := os.ReadFile(path)
	check(err)
	return text
}

func load(path string) table {
	values := table{}
	check(yaml.Unmarshal(read(path), &values))
	return values
}

// Tables are merged, all else is replaced.
func merge(under, over table) {
	for name, value := range over {
		a, isTable := under[name].(table)
		b, areBoth := value.(table)
		if isTable && areBoth {
			merge(a, b)
		} else {
			under[name] = value
		}
	}
}

func toYaml(value interface{}) (string, error) {
	text, err := yaml.Marshal(value)
	return strings.TrimSuffix(string(text), "\n"), err
}

func main() {
	folder, values := os.Args[1], load(filepath.Join(os.Args[1], "values.yaml"))
	for _, path := range os.Args[4:] {
		merge(values, load(path))
	}
	chart := table{}
	for name, value := range load(filepath.Join(folder, "Chart.yaml")) {
		chart[strings.ToUpper(name[:1])+name[1:]] = value
	}
	all := template.New("").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	delete(functions, "env") // as Helm does
	delete(functions, "expandenv")
	functions["toYaml"] = toYaml
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	all.Funcs(functions)
	base := chart["Name"].(string) + "/templates"
	paths, err := filepath.Glob(filepath.Join(folder, "templates", "*"))
	check(err)
	for _, path := range paths {
		_, err := all.New(base + "/" + filepath.Base(path)).Parse(string(read(path)))
		check(err)
	}
	data := table{
		"Values": values, "Chart": chart, "Files": files{folder},
		"Release":  table{"Name": os.Args[2], "Namespace": os.Args[3], "Service": "Helm"},
		"Template": table{"BasePath": base},
	}
	for _, path := range paths {
		if filepath.Ext(path) == ".yaml" {
			fmt.Println("---")
			check(all.ExecuteTemplate(os.Stdout, base+"/"+filepath.Base(path), data))
		}
	}
}
