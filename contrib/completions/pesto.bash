# Completes the name of a file. A folder's goes on, and blanks belong to it.
_pesto_files() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -f -- "$1"))
    [[ "${BASH_VERSINFO[0]}" -lt 4 ]] || compopt -o filenames
}

_pesto() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="pesto"
                ;;
            pesto,egress)
                cmd="pesto__subcmd__egress"
                ;;
            pesto,egress-replace)
                cmd="pesto__subcmd__egress__subcmd__replace"
                ;;
            pesto,flow-reset)
                cmd="pesto__subcmd__flow__subcmd__reset"
                ;;
            pesto,flows)
                cmd="pesto__subcmd__flows"
                ;;
            pesto,help)
                cmd="pesto__subcmd__help"
                ;;
            pesto,log)
                cmd="pesto__subcmd__log"
                ;;
            pesto,metrics)
                cmd="pesto__subcmd__metrics"
                ;;
            pesto,rules)
                cmd="pesto__subcmd__rules"
                ;;
            pesto,rules-add)
                cmd="pesto__subcmd__rules__subcmd__add"
                ;;
            pesto,rules-delete)
                cmd="pesto__subcmd__rules__subcmd__delete"
                ;;
            pesto,rules-replace)
                cmd="pesto__subcmd__rules__subcmd__replace"
                ;;
            pesto,stats)
                cmd="pesto__subcmd__stats"
                ;;
            pesto,status)
                cmd="pesto__subcmd__status"
                ;;
            pesto,watch)
                cmd="pesto__subcmd__watch"
                ;;
            pesto__subcmd__help,egress)
                cmd="pesto__subcmd__help__subcmd__egress"
                ;;
            pesto__subcmd__help,egress-replace)
                cmd="pesto__subcmd__help__subcmd__egress__subcmd__replace"
                ;;
            pesto__subcmd__help,flow-reset)
                cmd="pesto__subcmd__help__subcmd__flow__subcmd__reset"
                ;;
            pesto__subcmd__help,flows)
                cmd="pesto__subcmd__help__subcmd__flows"
                ;;
            pesto__subcmd__help,help)
                cmd="pesto__subcmd__help__subcmd__help"
                ;;
            pesto__subcmd__help,log)
                cmd="pesto__subcmd__help__subcmd__log"
                ;;
            pesto__subcmd__help,metrics)
                cmd="pesto__subcmd__help__subcmd__metrics"
                ;;
            pesto__subcmd__help,rules)
                cmd="pesto__subcmd__help__subcmd__rules"
                ;;
            pesto__subcmd__help,rules-add)
                cmd="pesto__subcmd__help__subcmd__rules__subcmd__add"
                ;;
            pesto__subcmd__help,rules-delete)
                cmd="pesto__subcmd__help__subcmd__rules__subcmd__delete"
                ;;
            pesto__subcmd__help,rules-replace)
                cmd="pesto__subcmd__help__subcmd__rules__subcmd__replace"
                ;;
            pesto__subcmd__help,stats)
                cmd="pesto__subcmd__help__subcmd__stats"
                ;;
            pesto__subcmd__help,status)
                cmd="pesto__subcmd__help__subcmd__status"
                ;;
            pesto__subcmd__help,watch)
                cmd="pesto__subcmd__help__subcmd__watch"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        pesto)
            opts="-A -D -C -t -u -T -U -s -d -h --add --delete --clear --tcp-ports --udp-ports --tcp-ns --udp-ns --show --debug --help --version status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --clear)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                -C)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                --tcp-ports)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                -t)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                --udp-ports)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                -u)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                --tcp-ns)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                -T)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                --udp-ns)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                -U)
                    COMPREPLY=("${cur}")
                    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
                        compopt -o nospace
                    fi
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__egress)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__egress__subcmd__replace)
            opts="--json --file --isolate"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --file)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__flow__subcmd__reset)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__flows)
            opts="--json --proto --address --port --state --min-age --min-idle"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --proto)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --address)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --port)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --state)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --min-age)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --min-idle)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help)
            opts="status stats metrics flows flow-reset rules rules-add rules-delete rules-replace egress egress-replace watch log help"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__egress)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__egress__subcmd__replace)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__flow__subcmd__reset)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__flows)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__help)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__log)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__metrics)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__rules)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__rules__subcmd__add)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__rules__subcmd__delete)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__rules__subcmd__replace)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__stats)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__status)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__help__subcmd__watch)
            opts=""
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 3 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__log)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__metrics)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__rules)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__rules__subcmd__add)
            opts="-t -u -T -U --json --tcp-ports --udp-ports --tcp-ns --udp-ns"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --tcp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -t)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -u)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --tcp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -T)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -U)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__rules__subcmd__delete)
            opts="-t -u -T -U --json --tcp-ports --udp-ports --tcp-ns --udp-ns --rule --to-host"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --tcp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -t)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -u)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --tcp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -T)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -U)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --rule)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__rules__subcmd__replace)
            opts="-t -u -T -U --json --tcp-ports --udp-ports --tcp-ns --udp-ns"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --tcp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -t)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ports)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -u)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --tcp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -T)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                --udp-ns)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                -U)
                    _pesto_files "${cur}"
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__stats)
            opts="--json --all"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__status)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
        pesto__subcmd__watch)
            opts="--json"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 2 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _pesto -o nosort -o bashdefault -o default pesto
else
    complete -F _pesto -o bashdefault -o default pesto
fi
